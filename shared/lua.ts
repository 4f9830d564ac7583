/** What the Lua of all scripts shares: how numbers leave it, and Redis' clock. */

/**
 * The one way for a number to leave Lua, as an argument of a command or as part of a text: whole, all its digits. Lua itself would
 * write 14 of them (`..`), and a zero with a sign as `-0`, which Redis takes for no number: of an empty message, say.
 */
export const text = `
local function text(n) return string.format('%.0f', n + 0) end
`;

/** Redis' clock: `us` microseconds, `ms` milliseconds; and `text`. */
export const clock = `${text}
local T = redis.call('TIME')
local us = T[1] * 1000000 + T[2]
local ms = math.floor(us / 1000)
`;
