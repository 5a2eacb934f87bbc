// Uploads of 256 MiB, one after another.
import { image, thresholds, upload } from './common.js';

export const options = {
  vus: 1,
  iterations: Number(__ENV.ITERATIONS || 5),
  thresholds: thresholds(10000),
};

let large;

export default function () {
  // Created here and not at the top level, which every virtual user runs.
  large = large || image(256 * 1024 * 1024);
  upload(large);
}
