/** Only text that is an ID becomes part of a Redis key, whoever said it. */
import t from "tap";
import { quotaTag, userTag } from "../../shared/ids.js";
import {
  channels,
  connectionKeys,
  everybody,
  groupTag,
  keys,
  NotAnIdError,
} from "../../shared/keys.js";

const id = "c_0000000000000000000000";
const tag = userTag("ann");
const quota = quotaTag("user", "ann");
/** What a token or a backend might say to name something that is not its own. */
const odd = [
  "",
  "schedule",
  "webhooks",
  "events",
  "g:room",
  "g:$all",
  "c_1",
  `${id} `,
  `${id}\n`,
  `${id}}:conn`,
  `{${id}}`,
  "u:ann",
  "..",
  "i-x",
  7 as unknown as string,
  [id] as unknown as string,
  undefined as unknown as string,
];

/** Every function that makes a name, with arguments that are good; by which argument is the ID or tag. */
const all = { ...keys, ...channels } as Record<string, unknown>;
const goodFirst: Record<string, string> = {};
const ofUsers = ["userConnections", "userMessage", "userParked", "userClaims"];
const ofGroups = /^group/;
const ofInstances = ["held", "deliverQueue", "canary"];
for (const [name, make] of Object.entries(all)) {
  if (typeof make !== "function") continue;
  goodFirst[name] = ofUsers.includes(name)
    ? tag
    : name === "quota"
      ? quota
      : ofGroups.test(name)
        ? "room"
        : ofInstances.includes(name)
          ? "Instance1"
          : id;
}

t.test("every function that makes a name refuses what is no ID", async (t) => {
  for (const [name, first] of Object.entries(goodFirst)) {
    const make = all[name] as (...texts: string[]) => string;
    t.match(make(first, "word"), first, name);
    for (const text of odd) {
      // The names of groups, processes and words are freer; what breaks out of them is not.
      const isFree = ![id, tag, quota].includes(first);
      if (isFree && /^[\w:.$-]*$/.test(String(text))) continue;
      if (name === "witness" && /^(g:|schedule$)/.test(String(text))) continue;
      t.throws(() => make(text, "word"), NotAnIdError, `${name} ${text}`);
    }
    if (make.length > 1)
      for (const text of ["a}b", "a:b", "a b", "\n", "ä"])
        t.throws(() => make(first, text), NotAnIdError, `${name} ${text}`);
  }
});

t.test("what is an ID", async (t) => {
  t.equal(keys.connection(id), `bridge:{${id}}:conn`);
  t.equal(connectionKeys(id).length, 7);
  t.throws(() => connectionKeys("schedule"), NotAnIdError);
  t.equal(keys.idempotency(tag, "a-_9"), `bridge:{${tag}}:idem:a-_9`);
  t.equal(keys.witness(groupTag(everybody)), "bridge:{g:$all}:witness");
  t.equal(keys.held(""), "bridge:{g:$all}:held:", "a script completes it");
  for (const name of ["$all", "a.b~c@d+e=f-g_h"])
    t.equal(groupTag(name), `g:${name}`);
  for (const name of ["$other", "a}b", "a:b", "", "..", "a".repeat(129)])
    t.throws(() => groupTag(name), NotAnIdError, name);
});

t.test("the error names the text, in short", async (t) => {
  t.throws(() => keys.connection("x".repeat(500)), {
    name: "NotAnIdError",
    message: `"${"x".repeat(40)}" is no connection ID: it cannot be part of a Redis key`,
  });
});
