// How numbers are written, as in the terminal and the report: a true minus sign, digits that say something.

/** A number of an answer: missing ones and infinities are no JSON numbers. */
export function number(value) {
  if (value === null || value === undefined) return NaN;
  return typeof value === "string" ? Number(value) : value;
}

/** Decimal places that give the largest of the numbers three significant digits, 3 to 8. */
export function places(values) {
  const largest = Math.max(0, ...values.map(number).filter(Number.isFinite).map(Math.abs));
  return largest === 0 ? 3 : Math.min(Math.max(3, 2 - Math.floor(Math.log10(largest))), 8);
}

/** A number with its sign: `+2.067`, `−0.223`. */
export function signed(value, decimals = 3) {
  const known = number(value);
  if (Number.isNaN(known)) return "n/a";
  if (!Number.isFinite(known)) return known > 0 ? "+∞" : "−∞";
  const text = Math.abs(known).toFixed(decimals);
  return (known < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

/** A number of any size, without a plus: `−0.158`, `3.1e−06`. */
export function plain(value, significant = 3) {
  const known = number(value);
  if (Number.isNaN(known)) return "n/a";
  if (!Number.isFinite(known)) return known > 0 ? "∞" : "−∞";
  const [mantissa, power] = known.toExponential(significant - 1).split("e");
  const exponent = Number(power);
  if (exponent >= -4 && exponent < significant) return String(Number(known.toPrecision(significant))).replace("-", "−");
  const digits = String(Math.abs(exponent)).padStart(2, "0");
  return `${Number(mantissa)}e${exponent < 0 ? "−" : "+"}${digits}`.replace("-", "−");
}

/** A probability as `85.4 %`, or `2e−05 %` below a tenth of a percent. */
export function percent(probability, decimals = 1) {
  const hundredths = 100 * number(probability);
  if (Number.isNaN(hundredths)) return "n/a";
  return hundredths >= 0.1 ? `${hundredths.toFixed(decimals)} %` : `${plain(hundredths, 2)} %`;
}

/** A whole number with its thousands apart. */
export function count(value) {
  return value.toLocaleString("en");
}

/** `1 head`, `2 heads`. */
export function several(n, one) {
  return `${count(n)} ${one}${n === 1 ? "" : "s"}`;
}
