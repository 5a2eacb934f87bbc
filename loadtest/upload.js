// Form uploads of 100 KiB to 10 MiB, most of them small, at an increasing rate.
import { image, thresholds, upload } from './common.js';

const PEAK = Number(__ENV.RATE || 20);
const STAGE = __ENV.STAGE || '20s';

export const options = {
  scenarios: {
    uploads: {
      executor: 'ramping-arrival-rate',
      startRate: 1,
      timeUnit: '1s',
      preAllocatedVUs: 20,
      maxVUs: 60,
      stages: [
        { target: Math.ceil(PEAK / 2), duration: STAGE },
        { target: PEAK, duration: STAGE },
        { target: PEAK, duration: STAGE },
      ],
    },
  },
  thresholds: { ...thresholds(1000), dropped_iterations: ['count==0'] },
};

const KIB = 1024;
// The sizes of ten uploads.
const SIZES = [100, 100, 100, 100, 500, 500, 500, 2048, 2048, 10240];
const IMAGES = new Map([...new Set(SIZES)].map((size) => [size, image(size * KIB)]));

export default function () {
  const size = SIZES[Math.floor(Math.random() * SIZES.length)];
  upload(IMAGES.get(size), { size: `${size} KiB` });
}
