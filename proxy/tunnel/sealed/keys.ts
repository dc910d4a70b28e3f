import { createSecretKey, hkdfSync, type KeyObject } from 'node:crypto'
import type { NodeId } from '../../../src/core/model/ids.ts'
import type { Aead } from './aead.ts'
import type { CarrierSecrets } from './contract.ts'

/**
 * The keys of one direction on one carrier. The TLS exporter (RFC 8446 §7.5) gives both ends the same first secret; each epoch has
 * its own key and IV, and the secret of the next epoch. Older secrets are forgotten; each carrier has its own (SEC-26).
 *
 *     exporter(direction, both node ids, carrier number) ─▶ secret 0 ─┬─▶ key 0, IV 0
 *                                                                     └─▶ secret 1 ─┬─▶ key 1, IV 1
 *                                                                                   └─▶ …
 */
export interface Epoch {
  readonly number: number
  readonly aead: Aead
  /** A KeyObject: with a Buffer as key, each call takes twice as long. */
  readonly key: KeyObject
  readonly iv: Buffer
  readonly nextSecret: Buffer
}

const SECRET_BYTES = 32
const KEY_BYTES = 32
export const IV_BYTES = 12
/** Epoch numbers have 16 bits on the wire and must not repeat: after the last one, the carrier seals no more. */
export const LAST_EPOCH = 0xffff

/** Where the keys of a direction begin, and what they are for. */
export interface Beginning {
  readonly secret: Buffer
  readonly aead: Aead
}

export function firstEpoch({ secret, aead }: Beginning): Epoch {
  return epochOf(0, { secret, aead })
}

export function nextEpoch({ number, aead, nextSecret }: Epoch): Epoch {
  return epochOf(number + 1, { secret: nextSecret, aead })
}

function epochOf(number: number, { secret, aead }: Beginning): Epoch {
  const keys = Buffer.from(hkdfSync('sha256', secret, '', 'hedgerow sealed key', KEY_BYTES + IV_BYTES))
  return {
    number,
    aead,
    key: createSecretKey(keys.subarray(0, KEY_BYTES)),
    iv: Buffer.from(keys.subarray(KEY_BYTES)),
    nextSecret: Buffer.from(hkdfSync('sha256', secret, '', 'hedgerow sealed next', SECRET_BYTES)),
  }
}

/** The first secrets of both directions; at the other end the two are swapped. */
export function carrierSecrets(
  from: CarrierSecrets,
  { self, peer, carrier }: { self: NodeId; peer: NodeId; carrier: number },
): { sending: Buffer; receiving: Buffer } {
  const isFirst = self < peer
  const number = Buffer.of(carrier >>> 8, carrier & 0xff)
  const ids = isFirst ? [self, peer] : [peer, self]
  const context = Buffer.concat([Buffer.from(`${ids.join('\0')}\0`), number])
  const secret = (direction: string) =>
    from.exportKeyingMaterial(SECRET_BYTES, `EXPERIMENTAL hedgerow sealed ${direction}`, context)
  const ofFirst = secret('from first')
  const ofSecond = secret('from second')
  return isFirst ? { sending: ofFirst, receiving: ofSecond } : { sending: ofSecond, receiving: ofFirst }
}
