// What the scripts share: the server's address, images, and the one check of an upload.
import http from 'k6/http';
import { check, fail, sleep } from 'k6';

export const BASE_URL = __ENV.BASE_URL || 'http://127.0.0.1:8080';

const PNG = new Uint8Array(open('../tests/fixtures/plain.png', 'b'));

// A tail as mixed as an image's bytes, made once: a byte at a time is slow here.
const NOISE = Uint8Array.from({ length: 65536 }, (_, i) => Math.imul(i + 1, 2654435761) >>> 13);

/** An image of so many bytes: a small one with a long tail. */
export function image(size) {
  const bytes = new Uint8Array(size);
  bytes.set(PNG);
  for (let at = PNG.length; at < size; at += NOISE.length) {
    bytes.set(NOISE.subarray(0, Math.min(NOISE.length, size - at)), at);
  }
  return bytes.buffer;
}

/** Uploads as a form; checks the answer. */
export function upload(bytes, tags) {
  const answer = http.post(`${BASE_URL}/upload-image`, { file: http.file(bytes, 'a.png', 'image/png') }, { tags });
  check(answer, {
    'is stored': (answer) => answer.status === 200,
    'whole': (answer) => answer.status === 200 && answer.json('size') === bytes.byteLength,
  });
  return answer;
}

/** Asks for a plan, sends the bytes straight to the store, and completes it. */
export function uploadDirectly(bytes, tags) {
  const asked = http.post(
    `${BASE_URL}/uploads`,
    JSON.stringify({ filename: 'a.png', content_type: 'image/png', size: bytes.byteLength }),
    { headers: { 'content-type': 'application/json' }, tags: { ...tags, name: 'plan' } },
  );
  if (!check(asked, { 'is planned': (answer) => answer.status === 201 })) {
    fail(`no plan: ${asked.status} ${asked.body}`);
  }
  const plan = asked.json();
  const pieces = plan.kind === 'put' ? [plan] : plan.parts;
  let at = 0;
  for (const piece of pieces) {
    const end = plan.kind === 'put' ? bytes.byteLength : at + piece.size;
    const sent = http.put(piece.url, bytes.slice(at, end), {
      headers: withoutLength(piece.headers),
      tags: { ...tags, name: 'put' },
    });
    check(sent, { 'is taken': (answer) => answer.status === 200 });
    at = end;
  }
  const complete = () => http.post(absolute(plan.complete_url), null, { tags: { ...tags, name: 'complete' } });
  let done = complete();
  while (done.status === 202) {
    sleep(Number(done.headers['Retry-After'] || 1));
    done = complete();
  }
  check(done, {
    'is complete': (answer) => answer.status === 200,
    'whole': (answer) => answer.status === 200 && answer.json('size') === bytes.byteLength,
  });
  return done;
}

/** k6 sets the length itself. */
function withoutLength(headers) {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name.toLowerCase() !== 'content-length'));
}

/** Links of a plan are relative to the address it was asked at, but under a PUBLIC_URL. */
function absolute(link) {
  return link.startsWith('/') ? `${BASE_URL}${link}` : link;
}

/** Deletes what an answer named. */
export function remove(answer, tags) {
  const gone = http.del(`${BASE_URL}/delete/${answer.json('s3_key')}`, null, { tags: { ...tags, name: 'delete' } });
  check(gone, { 'is deleted': (answer) => answer.status === 200 });
}

/** Thresholds of every script: nothing fails, and 95 of 100 requests are over in time (milliseconds). */
export function thresholds(p95) {
  return {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    http_req_duration: [`p(95)<${p95}`],
  };
}
