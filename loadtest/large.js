// One client after another with 256 MiB.
import { image, thresholds, upload } from './common.js';

export const options = {
  vus: 1,
  iterations: Number(__ENV.ITERATIONS || 5),
  thresholds: thresholds(10000),
};

let large;

export default function () {
  // Not where every virtual user would make one.
  large = large || image(256 * 1024 * 1024);
  upload(large);
}
