import { createDecipheriv } from 'node:crypto'
import type { Drop } from './contract.ts'
import { firstEpoch, IV_BYTES, nextEpoch, type Epoch } from './keys.ts'
import { PACKET_HEADER_BYTES, TAG_BYTES } from './packet.ts'
import { ReplayWindow } from './replay.ts'
import { writeNonce } from './sealer.ts'

const GCM = { authTagLength: TAG_BYTES }
const WORD = 0x1_0000_0000

/**
 * Opens the packets of one direction: those of the present epoch, the one before, and the next, which becomes the present one
 * once a packet of it has opened. Whatever does not open costs one AEAD call at most, and changes nothing.
 */
export class Opener {
  readonly #window = new ReplayWindow()
  readonly #nonce = Buffer.alloc(IV_BYTES)
  #previous: Epoch | undefined
  #present: Epoch
  #next: Epoch | undefined
  /** Why `open` gave nothing. */
  drop: Drop = 'forged'
  /** The packet opened last is the newest so far. */
  isNewest = false

  constructor(secret: Buffer) {
    this.#present = firstEpoch(secret)
  }

  /** The records inside, or nothing: see `drop`. The length was looked at before. */
  open(packet: Buffer): Buffer | undefined {
    const epoch = this.#epochOf((packet[2]! << 8) | packet[3]!)
    if (epoch === undefined) return this.#not('epoch')
    const number = packet.readUInt32BE(8) * WORD + packet.readUInt32BE(12)
    if (!Number.isSafeInteger(number) || !this.#window.isNew(number)) return this.#not('replay')
    const header = packet.subarray(0, PACKET_HEADER_BYTES)
    const tagAt = packet.length - TAG_BYTES
    writeNonce(this.#nonce, epoch.iv, header)
    const decipher = createDecipheriv('aes-256-gcm', epoch.key, this.#nonce, GCM)
    decipher.setAAD(header)
    decipher.setAuthTag(packet.subarray(tagAt))
    const plain = decipher.update(packet.subarray(PACKET_HEADER_BYTES, tagAt))
    try {
      decipher.final()
    } catch {
      return this.#not('forged')
    }
    this.isNewest = number > this.#window.highest
    this.#window.take(number)
    if (epoch === this.#next) this.#advance()
    return plain
  }

  #epochOf(number: number): Epoch | undefined {
    if (number === this.#present.number) return this.#present
    if (number === this.#previous?.number) return this.#previous
    if (number !== this.#present.number + 1) return undefined
    this.#next ??= nextEpoch(this.#present)
    return this.#next
  }

  #advance(): void {
    this.#previous = this.#present
    this.#present = this.#next!
    this.#next = undefined
  }

  #not(drop: Drop): undefined {
    this.drop = drop
    return undefined
  }
}
