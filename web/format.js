// Numbers and times for people.

export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB"];
  let unit = 0;
  let value = bytes;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  // No line break between a number and its unit.
  return `${value.toFixed(digits)}\u00a0${units[unit]}`;
}

/** A limit, such as "20 MB". */
export function limit(bytes) {
  return size(bytes).replace(".0", "");
}

export function duration(seconds) {
  const whole = Math.max(1, Math.ceil(seconds));
  if (whole < 60) return `${whole}\u00a0s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}\u00a0min ${whole % 60}\u00a0s`;
  return `${Math.floor(whole / 3600)}\u00a0h ${Math.floor((whole % 3600) / 60)}\u00a0min`;
}

/** The time, with the day unless it is today. */
export function moment(date) {
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], { ...(!today && { weekday: "long" }), hour: "2-digit", minute: "2-digit" });
}

/** "JPEG, PNG or GIF" */
export function alternatives(names) {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} or ${names.at(-1)}` : names.join("");
}
