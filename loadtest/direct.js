// Direct uploads: a plan, the bytes straight to the store, and completing; as one PUT and in parts.
import { image, remove, thresholds, uploadDirectly } from './common.js';

export const options = {
  vus: Number(__ENV.VUS || 4),
  duration: __ENV.DURATION || '20s',
  thresholds: thresholds(2000),
};

const SMALL = image(500 * 1024);
// With a DIRECT_PUT_MAX below this it goes in parts.
const LARGER = image(12 * 1024 * 1024);

export default function () {
  remove(uploadDirectly(SMALL, { size: 'small' }));
  remove(uploadDirectly(LARGER, { size: 'large' }));
}
