import type { Trust } from '../../core/identity/contract.ts'
import { certificatesIn } from '../../core/identity/x509.ts'
import type { Collection } from '../../core/kit/store.ts'

/** What is remembered of who holds a certificate of this cluster. */
export interface Holder {
  /** When the newest certificate that it was issued ends, milliseconds since 1970; absent until this version has issued one. */
  certificateUntil?: number
  /** What it reported last of the authorities; absent for an earlier version. */
  trust?: Trust
}

/** Remembers what it says of the authorities, and returns whether it should ask for another certificate. */
export function heardTrust<T extends Holder>(
  holders: Collection<T>,
  name: string,
  { trust, ours }: { trust: Trust | undefined; ours: Trust },
): boolean {
  const record = holders.get(name)
  if (record === undefined) return false
  try {
    const { trust: _before, ...rest } = record
    holders.put(name, { ...rest, ...(trust === undefined ? {} : { trust }) } as T)
  } catch {
    // the disk is full: whoever writes next says so, and the next hello brings it again
  }
  return trust !== undefined && isBehind({ trust }, ours)
}

/** True when it should ask for another certificate: ours is by an authority that it trusts, and its own is by another. */
export function isBehind({ trust }: Holder, { presents }: Trust): boolean {
  return trust !== undefined && presents !== undefined && trust.presents !== presents && trust.trusts.includes(presents)
}

/**
 * Remembers until when the certificate is valid, so that `check` can tell of one that is about to end on another machine.
 * A store that cannot be written must not keep the holder from its certificate.
 */
export function remembered<T extends Holder>(holders: Collection<T>, name: string, chain: string): { chain: string } {
  const certificateUntil = certificatesIn(chain)[0]?.validToDate.getTime()
  const record = holders.get(name)
  if (record === undefined || certificateUntil === undefined) return { chain }
  try {
    holders.put(name, { ...record, certificateUntil })
  } catch {
    // the disk is full: whoever writes next says so
  }
  return { chain }
}
