// The room, in this process's own memory: right wherever one process serves all members, and nowhere else. Where every
// connection has an instance of its own, each member sits alone in a room of their own.

const seats = new Map(); // id -> { name, socket }

/** Lets somebody in, who then hears everything. Resolves with the seat. */
export async function enter({ id, name }, socket) {
  if (seats.has(id)) throw new Error("this ID is taken");
  seats.set(id, { name, socket });
  send(socket, { type: "welcome", id, members: list() });
  tellAll({ type: "joined", id, name });

  return {
    /** To all, or to the one with the ID `to`; false when there is nobody of that ID. */
    async say(text, to) {
      const said = { type: "said", from: { id, name }, text };
      if (to === undefined) {
        tellAll({ ...said, private: false });
        return true;
      }
      const seat = seats.get(to);
      if (seat) send(seat.socket, { ...said, private: true });
      return seat !== undefined;
    },
    async members() {
      return list();
    },
    async leave() {
      seats.delete(id);
      tellAll({ type: "left", id });
    },
  };
}

function list() {
  return [...seats].map(([id, { name }]) => ({ id, name }));
}

function tellAll(message) {
  for (const { socket } of seats.values()) send(socket, message);
}

function send(socket, message) {
  socket.send(JSON.stringify(message));
}
