// A smoke test of ten seconds: form uploads, direct uploads, reads and deletes.
import http from 'k6/http';
import { check } from 'k6';
import { BASE_URL, image, remove, thresholds, upload, uploadDirectly } from './common.js';

export const options = {
  vus: 2,
  duration: __ENV.DURATION || '10s',
  thresholds: thresholds(1000),
};

const SMALL = image(100 * 1024);
// Large enough for more than one part.
const LARGER = image(6 * 1024 * 1024);

export default function () {
  const stored = upload(SMALL);
  check(http.get(stored.json('url'), { tags: { name: 'read' }, responseType: 'none' }), {
    'is readable': (answer) => answer.status === 200,
  });
  remove(stored);
  remove(upload(LARGER));
  remove(uploadDirectly(SMALL));
  check(http.get(`${BASE_URL}/readyz`), { 'is ready': (answer) => answer.status === 200 });
}
