// Direct uploads: create a plan, send the bytes directly to the store, complete. In one PUT and in parts.
import { image, remove, thresholds, uploadDirectly } from './common.js';

export const options = {
  vus: Number(__ENV.VUS || 4),
  duration: __ENV.DURATION || '20s',
  thresholds: thresholds(2000),
};

const SMALL = image(500 * 1024);
// Sent in parts if DIRECT_PUT_MAX is smaller.
const LARGER = image(12 * 1024 * 1024);

export default function () {
  remove(uploadDirectly(SMALL, { size: 'small' }));
  remove(uploadDirectly(LARGER, { size: 'large' }));
}
