// Where and how the load generator posts.

export interface Pushing {
  port: number;
  /** Extra request header lines, each ending in CRLF. */
  headers: string;
}
