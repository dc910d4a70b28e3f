/* What is read of a question: by wire.ts, and by codec.ts where the packet is unusual. */

export interface Query {
  packet: Buffer
  /** Where the question ends. */
  end: number
  type: number
  class: number
  /** The lower-case wire form of the name: the same for every spelling. */
  key: string
  /** Absent: the client does not use EDNS. */
  edns?: { size: number; isDnssecOk: boolean }
}

/** The OPT record of a question (RFC 6891 §6.1). */
export interface Opt {
  /** UDP payload that the client takes. */
  size: number
  version: number
  isDnssecOk: boolean
}
