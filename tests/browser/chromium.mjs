// Unpacks the Chromium of the npm package under TMPDIR, and prints where it is.
import chromium from "@sparticuz/chromium";
console.log(await chromium.executablePath());
