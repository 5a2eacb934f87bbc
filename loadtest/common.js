// Shared by all scripts: the server's address, images, and functions that upload and check the response.
import http from 'k6/http';
import { check, fail, sleep } from 'k6';

export const BASE_URL = __ENV.BASE_URL || 'http://127.0.0.1:8080';

const PNG = new Uint8Array(open('../tests/fixtures/plain.png', 'b'));

// Pseudo-random bytes, generated once because k6 is slow at this.
const NOISE = Uint8Array.from({ length: 65536 }, (_, i) => Math.imul(i + 1, 2654435761) >>> 13);

/** Returns an image of `size` bytes: a small image followed by pseudo-random bytes. */
export function image(size) {
  const bytes = new Uint8Array(size);
  bytes.set(PNG);
  for (let at = PNG.length; at < size; at += NOISE.length) {
    bytes.set(NOISE.subarray(0, Math.min(NOISE.length, size - at)), at);
  }
  return bytes.buffer;
}

/** Uploads an image in a form and checks the response. */
export function upload(bytes, tags) {
  const answer = http.post(`${BASE_URL}/upload-image`, { file: http.file(bytes, 'a.png', 'image/png') }, { tags });
  check(answer, {
    'is stored': (answer) => answer.status === 200,
    'has its size': (answer) => answer.status === 200 && answer.json('size') === bytes.byteLength,
  });
  return answer;
}

/** Creates a plan, sends the bytes directly to the store, and completes the upload. */
export function uploadDirectly(bytes, tags) {
  const created = http.post(
    `${BASE_URL}/uploads`,
    JSON.stringify({ filename: 'a.png', content_type: 'image/png', size: bytes.byteLength }),
    { headers: { 'content-type': 'application/json' }, tags: { ...tags, name: 'plan' } },
  );
  if (!check(created, { 'plan is created': (answer) => answer.status === 201 })) {
    fail(`no plan was created: ${created.status} ${created.body}`);
  }
  const plan = created.json();
  const pieces = plan.kind === 'put' ? [plan] : plan.parts;
  let at = 0;
  for (const piece of pieces) {
    const end = plan.kind === 'put' ? bytes.byteLength : at + piece.size;
    const sent = http.put(piece.url, bytes.slice(at, end), {
      headers: withoutLength(piece.headers),
      tags: { ...tags, name: 'put' },
    });
    check(sent, { 'part is stored': (answer) => answer.status === 200 });
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
    'has its size': (answer) => answer.status === 200 && answer.json('size') === bytes.byteLength,
  });
  return done;
}

/** Removes Content-Length, which k6 sets itself. */
function withoutLength(headers) {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name.toLowerCase() !== 'content-length'));
}

/** Returns an absolute URL. The links of a plan are relative unless PUBLIC_URL is set. */
function absolute(link) {
  return link.startsWith('/') ? `${BASE_URL}${link}` : link;
}

/** Deletes the image of a response. */
export function remove(answer, tags) {
  const deleted = http.del(`${BASE_URL}/delete/${answer.json('s3_key')}`, null, { tags: { ...tags, name: 'delete' } });
  check(deleted, { 'is deleted': (answer) => answer.status === 200 });
}

/** Thresholds of every script: no check or request fails, and 95 of 100 requests end within `p95` milliseconds. */
export function thresholds(p95) {
  return {
    checks: ['rate==1'],
    http_req_failed: ['rate==0'],
    http_req_duration: [`p(95)<${p95}`],
  };
}
