/** Types of RFC 1035 §3.2 and later that the resolver knows by name. */
export const TYPE = {
  A: 1,
  NS: 2,
  SOA: 6,
  PTR: 12,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  OPT: 41,
  IXFR: 251,
  AXFR: 252,
  MAILA: 254,
  ANY: 255,
} as const

/** Header codes, and BADVERS, which does not fit the header (RFC 6895 §2.3). */
export const CODE = { NOERROR: 0, FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5, BADVERS: 16 } as const
export type Code = keyof typeof CODE

export const CLASS_IN = 1

/** Bytes before the question. */
export const HEADER = 12
