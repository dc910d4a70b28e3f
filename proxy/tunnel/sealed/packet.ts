/**
 * A sealed packet: one UDP datagram between two agents, numbers big endian.
 *
 *     0      1      2         4             8                16
 *     ┌──────┬──────┬─────────┬─────────────┬────────────────┬─ AES-256-GCM ──┬─ tag ─┐
 *     │ 0xb1 │ 0    │ epoch   │ receiver    │ packet number  │ records        │ 16    │
 *     └──────┴──────┴─────────┴─────────────┴────────────────┴────────────────┴───────┘
 *      └────────────── authenticated ──────────────────────┘
 *
 *     receiver       u32, drawn by the reader and told in its offer: finds the keys, whatever the source address
 *     epoch          which keys of that direction (keys.ts)
 *     packet number  u64, never used twice in a direction; the nonce is the epoch's IV with it mixed in
 *
 * Inside the seal are records, as many as fit:
 *
 *     ┌──────┬────────┬──────
 *     │ kind │ length │ body      0 PADDING   nothing follows any more; the length is not looked at
 *     │ u8   │ u16    │           1 DATAGRAM  u32 stream, payload
 *     └──────┴────────┴──────     2 FRAGMENT  u32 stream, u32 datagram, u8 index, u8 count, u16 total, piece (fragments.ts)
 *                                 3 PROBE     u32 id; asks for an ANSWER
 *                                 4 ANSWER    u32 id; never longer than what asked for it
 *
 * A kind that is not known is skipped.
 */
export const MAGIC = 0xb1
export const PACKET_HEADER_BYTES = 16
export const TAG_BYTES = 16
/** Of a packet, beside its records. */
export const SEAL_BYTES = PACKET_HEADER_BYTES + TAG_BYTES
export const RECORD_HEADER_BYTES = 3
export const RECORD = { PADDING: 0, DATAGRAM: 1, FRAGMENT: 2, PROBE: 3, ANSWER: 4 } as const
/** Beside the payload of a datagram that goes whole. */
export const DATAGRAM_BYTES = RECORD_HEADER_BYTES + 4
/** Beside the piece of a datagram that goes in pieces. */
export const FRAGMENT_BYTES = RECORD_HEADER_BYTES + 12
export const PROBE_BYTES = RECORD_HEADER_BYTES + 4
/** A packet no path of the Internet refuses (RFC 8200 §5 and RFC 9000 §14 leave as much). */
export const FLOOR_BYTES = 1_200
/** The largest packet we send or take. */
export const MAX_PACKET_BYTES = 8_900

/** Writes the head of a record; the body follows at the returned place. */
export function writeRecord(out: Buffer, at: number, kind: number, length: number): number {
  out[at] = kind
  out[at + 1] = length >>> 8
  out[at + 2] = length
  return at + RECORD_HEADER_BYTES
}

export interface RecordSink {
  datagram(stream: number, payload: Buffer): void
  fragment(stream: number, body: Buffer): void
  probe(id: number): void
  answer(id: number): void
}

/** Reads the records of an opened packet; false when they make no sense, with what came before taken. */
export function readRecords(plain: Buffer, sink: RecordSink): boolean {
  let at = 0
  while (at < plain.length) {
    const kind = plain[at]!
    if (kind === RECORD.PADDING) return true
    if (at + RECORD_HEADER_BYTES > plain.length) return false
    const from = at + RECORD_HEADER_BYTES
    at = from + ((plain[at + 1]! << 8) | plain[at + 2]!)
    if (at > plain.length) return false
    if (kind > RECORD.ANSWER) continue
    if (at - from < 4) return false
    const word = plain.readUInt32BE(from)
    if (kind === RECORD.DATAGRAM) sink.datagram(word, plain.subarray(from + 4, at))
    else if (kind === RECORD.FRAGMENT) sink.fragment(word, plain.subarray(from + 4, at))
    else if (kind === RECORD.PROBE) sink.probe(word)
    else sink.answer(word)
  }
  return true
}
