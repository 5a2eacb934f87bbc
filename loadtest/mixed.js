// A mixed load: form uploads, direct uploads, reads, rejected uploads and deletes at the same time.
import http from 'k6/http';
import { check } from 'k6';
import { BASE_URL, image, remove, thresholds, upload, uploadDirectly } from './common.js';

export const options = {
  vus: Number(__ENV.VUS || 8),
  duration: __ENV.DURATION || '30s',
  thresholds: thresholds(1500),
};

const IMAGES = [100, 500, 2048].map((kib) => image(kib * 1024));
const TEXT = 'a text file with the name of an image';

export default function () {
  const bytes = IMAGES[Math.floor(Math.random() * IMAGES.length)];
  const stored = __ITER % 4 === 0 ? uploadDirectly(bytes) : upload(bytes);
  const key = stored.json('s3_key');
  const read = http.get(`${BASE_URL}/images/${key}`, { redirects: 0, tags: { name: 'redirect' } });
  check(read, { 'is redirected': (answer) => answer.status === 307 });
  const rejected = http.post(`${BASE_URL}/upload-image`, { file: http.file(TEXT, 'a.png', 'image/png') }, {
    tags: { name: 'rejected' },
    responseCallback: http.expectedStatuses(400),
  });
  check(rejected, { 'is rejected': (answer) => answer.json('code') === 'invalid_file_type' });
  remove(stored);
}
