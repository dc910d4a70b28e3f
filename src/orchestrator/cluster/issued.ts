import { certificatesIn } from '../../core/identity/x509.ts'
import type { Collection } from '../../core/kit/store.ts'

/** What is remembered of who holds a certificate of this cluster. */
export interface Holder {
  /** When the newest certificate that it was issued ends, milliseconds since 1970; absent until this version has issued one. */
  certificateUntil?: number
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
