// A constant, moderate load for a long time (DURATION, 10m). A memory leak exceeds the memory limit that run.sh checks.
import { image, remove, thresholds, upload } from './common.js';

export const options = {
  scenarios: {
    soak: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE || 10),
      timeUnit: '1s',
      duration: __ENV.DURATION || '10m',
      preAllocatedVUs: 20,
    },
  },
  thresholds: { ...thresholds(1000), dropped_iterations: ['count==0'] },
};

const SMALL = image(200 * 1024);
const LARGER = image(8 * 1024 * 1024);

export default function () {
  remove(upload(__ITER % 10 === 0 ? LARGER : SMALL));
}
