import { createCipheriv } from 'node:crypto'
import { type Beginning, firstEpoch, IV_BYTES, LAST_EPOCH, nextEpoch, type Epoch } from './keys.ts'
import { AUTH, MAGIC, PACKET_HEADER_BYTES, SEAL_BYTES } from './packet.ts'

/** New keys after this many packets: half of what RFC 9001 §6.6 allows for AES-GCM (ChaCha20 would bear more) … */
const REKEY_PACKETS = 2 ** 22
/** … or after this long, so that a leaked key opens little. */
const REKEY_MS = 15 * 60_000
/** While the peer has not confirmed the current keys there are no new ones; after this many packets nothing is sealed. */
const MAX_PACKETS = 2 ** 23

const WORD = 0x1_0000_0000

/**
 * Seals the packets of one direction.
 *
 *     epoch n ──2²² packets or 15 min, and the peer answered under n──▶ epoch n+1
 *
 * Hot path: header and nonce are written in place; per packet there are one cipher and its two results. Guarded by
 * test/bench/sealed-micro.ts.
 */
export class Sealer {
  readonly #receiver: number
  readonly #nonce = Buffer.alloc(IV_BYTES)
  readonly #aad = Buffer.alloc(PACKET_HEADER_BYTES)
  #epoch: Epoch
  #since: number
  #sealed = 0
  #isConfirmed = false
  #high = 0
  #low = 0

  constructor(keys: Beginning, receiver: number, now: number) {
    this.#epoch = firstEpoch(keys)
    this.#receiver = receiver
    this.#since = now
  }

  get epoch(): number {
    return this.#epoch.number
  }

  /** The keys are used up, and the peer has not confirmed them, so there are no new ones. */
  get isExhausted(): boolean {
    return this.#sealed >= MAX_PACKETS
  }

  /** The peer has opened a packet of this epoch. */
  confirm(epoch: number): void {
    if (epoch === this.#epoch.number) this.#isConfirmed = true
  }

  /** Changes to new keys when they are due; called regularly. */
  tick(now: number): void {
    const isDue = this.#sealed >= REKEY_PACKETS || (this.#sealed > 0 && now - this.#since >= REKEY_MS)
    if (!isDue || !this.#isConfirmed || this.#epoch.number >= LAST_EPOCH) return
    this.#epoch = nextEpoch(this.#epoch)
    this.#since = now
    this.#sealed = 0
    this.#isConfirmed = false
  }

  /** Writes the packet for `plain` at `out[0…]`; returns its length. */
  seal(plain: Buffer, out: Buffer): number {
    const { aead, key, iv, number } = this.#epoch
    const head = this.#aad
    head[0] = MAGIC
    head[2] = number >>> 8
    head[3] = number
    head.writeUInt32BE(this.#receiver, 4)
    head.writeUInt32BE(this.#high, 8)
    head.writeUInt32BE(this.#low, 12)
    writeNonce(this.#nonce, iv, head)
    const cipher = createCipheriv(aead as 'aes-256-gcm', key, this.#nonce, AUTH)
    cipher.setAAD(head)
    const sealed = cipher.update(plain)
    cipher.final()
    out.set(head, 0)
    out.set(sealed, PACKET_HEADER_BYTES)
    out.set(cipher.getAuthTag(), PACKET_HEADER_BYTES + plain.length)
    this.#sealed += 1
    this.#low += 1
    if (this.#low === WORD) {
      this.#low = 0
      this.#high += 1
    }
    return plain.length + SEAL_BYTES
  }
}

/** The IV, its last 8 bytes XOR the packet number of this header (RFC 8446 §5.3). */
export function writeNonce(nonce: Buffer, iv: Buffer, header: Buffer): void {
  for (let i = 0; i < 4; i++) nonce[i] = iv[i]!
  for (let i = 4; i < IV_BYTES; i++) nonce[i] = iv[i]! ^ header[i + 4]!
}
