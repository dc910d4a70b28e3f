/** `host`, `host:port`, `[v6]` or `[v6]:port`; `undefined` when the text is none of them. */
export function splitHostPort(text: string): { host: string; port?: number } | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})))(?::(\d{1,5}))?$/.exec(text)
  const host = match?.[1] ?? match?.[2]
  if (host === undefined) return undefined
  if (match?.[3] === undefined) return { host }
  const port = Number(match[3])
  return port >= 1 && port <= 65_535 ? { host, port } : undefined
}
