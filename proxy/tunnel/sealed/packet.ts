/**
 * A sealed packet: one UDP datagram between two agents, numbers big endian.
 *
 *     0      1      2         4             8                16
 *     ┌──────┬──────┬─────────┬─────────────┬────────────────┬─ AEAD ─────────┬─ tag ─┐
 *     │ 0xb1 │ 0    │ epoch   │ receiver    │ packet number  │ records        │ 16    │
 *     └──────┴──────┴─────────┴─────────────┴────────────────┴────────────────┴───────┘
 *      └────────────── authenticated ──────────────────────┘
 *
 *     AEAD           aead.ts: AES-256-GCM, or ChaCha20-Poly1305
 *
 *     receiver       u32, chosen by the receiver in its offer: it finds the keys, whatever the source address
 *     epoch          number of the keys of that direction (keys.ts)
 *     packet number  u64, never repeated in a direction; the nonce is the IV of the epoch XOR this number
 *
 * Inside the seal are records, as many as fit:
 *
 *     ┌──────┬────────┬──────
 *     │ kind │ length │ body      0 PADDING   nothing follows; the length is ignored
 *     │ u8   │ u16    │           1 DATAGRAM  u32 stream, payload
 *     └──────┴────────┴──────     2 FRAGMENT  u32 stream, u32 datagram, u8 index, u8 count, u16 total, piece (fragments.ts)
 *                                 3 PROBE     u32 id; asks for an ANSWER
 *                                 4 ANSWER    u32 id; its packet is never longer than that of the PROBE
 *
 * Unknown kinds are skipped.
 */
export const MAGIC = 0xb1
export const PACKET_HEADER_BYTES = 16
export const TAG_BYTES = 16
/** For both AEADs. */
export const AUTH = { authTagLength: TAG_BYTES }
/** Bytes of a packet besides its records. */
export const SEAL_BYTES = PACKET_HEADER_BYTES + TAG_BYTES
export const RECORD_HEADER_BYTES = 3
export const RECORD = { PADDING: 0, DATAGRAM: 1, FRAGMENT: 2, PROBE: 3, ANSWER: 4 } as const
/** Bytes besides the payload of a whole datagram. */
export const DATAGRAM_BYTES = RECORD_HEADER_BYTES + 4
/** Bytes besides one piece of a datagram. */
export const FRAGMENT_BYTES = RECORD_HEADER_BYTES + 12
export const PROBE_BYTES = RECORD_HEADER_BYTES + 4
/** A size that every path of the Internet carries (RFC 9000 §14 relies on it too). */
export const FLOOR_BYTES = 1_200
/** The largest packet we send or accept. */
export const MAX_PACKET_BYTES = 8_900

/** Writes the header of a record; the body begins at the returned offset. */
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

/** Reads the records of an opened packet; false when one is malformed, after those before it were delivered. */
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
