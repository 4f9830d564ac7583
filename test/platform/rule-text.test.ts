// Presets and switches as they are written on a command line or in the environment.

import t from "tap";
import { parseRules } from "../../platform/rule-text.js";
import { presets } from "../../platform/rules.js";

t.test("without a word the documents count", (t) => {
  t.strictSame(parseRules({}), presets.documented);
  t.strictSame(parseRules({ preset: "", set: " , " }), presets.documented);
  t.end();
});

t.test("a preset, and single rules on top of it", (t) => {
  t.strictSame(
    parseRules({
      preset: "hostile",
      set: "afterClose=kill, graceAfterCloseMs=50,platformClose=1001,profile=2021,timeScale=0.01,lenientNoCode=true",
    }),
    {
      ...presets.hostile,
      afterClose: "kill",
      graceAfterCloseMs: 50,
      platformClose: 1001,
      profile: "2021",
      timeScale: 0.01,
      lenientNoCode: true,
    },
  );
  t.end();
});

t.test("every rule can be set to what the presets set it to", (t) => {
  for (const preset of Object.values(presets)) {
    const set = Object.entries(preset)
      .map(([name, value]) => `${name}=${value}`)
      .join(",");
    t.strictSame(parseRules({ set }), preset);
  }
  t.end();
});

t.test(
  "one line per mistake, and an unknown name lists the known ones",
  (t) => {
    const lines = parseRules({
      preset: "nasty",
      set: "afterclose=kill,afterClose=sleep,graceAfterCloseMs,timeScale=0,strictBootstrap=maybe,platformClose=99",
    });
    t.match(lines, [
      /^PLATFORM_PRESET must be one of documented, friendly, hostile, not "nasty"$/,
      /^PLATFORM_SET: there is no rule "afterclose"; there are profile, .*, seed$/,
      /^PLATFORM_SET: afterClose must be one of freeze, kill, random, not "sleep"$/,
      /^PLATFORM_SET: graceAfterCloseMs must be a whole number from 0 to 86400000, not ""$/,
      /^PLATFORM_SET: timeScale must be a number/,
      /^PLATFORM_SET: strictBootstrap must be true or false/,
      /^PLATFORM_SET: platformClose must be abort or a close code/,
    ]);
    t.equal((lines as string[]).length, 7);
    t.end();
  },
);
