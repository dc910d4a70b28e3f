import { isIPv6 } from 'node:net'
import { FLOOR_BYTES, MAX_PACKET_BYTES } from './packet.ts'

/**
 * How long packets on a path may be: found with padded probes (RFC 8899).
 *
 *     1,200 ──answered──▶ 1,400 ──answered──▶ 1,472 (IPv6: 1,452) ──answered──▶ 8,900
 *       ▲         │ no answer in a second: no longer size is tried for ten minutes
 *       └─ two probes of the current size lost in a row, while one of 1,200 was answered
 *
 * Node cannot set IP_MTU_DISCOVER, so the kernel's default applies (IP_PMTUDISC_WANT, measured): a packet that fits the interface
 * leaves with DF, and is lost on a narrower link; one that is longer than the interface MTU, or than the path MTU a router has
 * reported (to TCP, too), is split into IP fragments by the kernel without an error, and a probe of that size would seem to pass.
 * Hence `limit`, from the interface; `fragmented`, from the kernel's count; and one try per size until the kernel has forgotten
 * the path MTU (`net.ipv4.route.mtu_expires`, 600 s).
 */
const SIZES = { 4: [1_400, 1_472, MAX_PACKET_BYTES], 6: [1_400, 1_452, MAX_PACKET_BYTES] }
const LOST_MS = 1_000
const AGAIN_MS = 10 * 60_000 + 30_000
const IP_AND_UDP_BYTES = { 4: 28, 6: 48 }

export class MtuSearch {
  #bytes = FLOOR_BYTES
  #limit = FLOOR_BYTES
  #sizes: readonly number[] = []
  #trying: { size: number; at: number } | undefined
  #restUntil = 0
  #lost = 0

  /** The longest UDP payload that gets through. */
  get bytes(): number {
    return this.#bytes
  }

  /** Starts over on another path. `interfaceMtu` is `undefined` until it is known. */
  reset(host: string, interfaceMtu: number | undefined): void {
    const family = isIPv6(host) ? 6 : 4
    this.#bytes = FLOOR_BYTES
    this.#limit = Math.max(FLOOR_BYTES, (interfaceMtu ?? 0) - IP_AND_UDP_BYTES[family])
    this.#sizes = SIZES[family]
    this.#trying = undefined
    this.#restUntil = 0
    this.#lost = 0
  }

  /** The size to probe now, if any. */
  next(now: number): number | undefined {
    if (this.#trying !== undefined && now - this.#trying.at >= LOST_MS) {
      this.#trying = undefined
      this.#restUntil = now + AGAIN_MS
    }
    if (this.#trying !== undefined || now < this.#restUntil) return undefined
    const size = this.#sizes.find((size) => size > this.#bytes && size <= this.#limit)
    if (size !== undefined) this.#trying = { size, at: now }
    return size
  }

  /** A probe of that size was answered. */
  answered(size: number): void {
    if (size >= this.#bytes) this.#lost = 0
    if (size === this.#trying?.size) this.#trying = undefined
    if (size > this.#bytes) this.#bytes = size
  }

  /** The kernel split a packet of that size into fragments. */
  fragmented(size: number, now: number): void {
    if (size === this.#trying?.size) {
      this.#trying = undefined
      this.#restUntil = now + AGAIN_MS
    } else if (size === this.#bytes && size > FLOOR_BYTES) {
      this.#bytes = FLOOR_BYTES
      this.#restUntil = now
    }
  }

  /** A probe of the current size was lost, and a small one was not. */
  lost(size: number, now: number): void {
    if (size !== this.#bytes || size === FLOOR_BYTES) return
    this.#lost += 1
    if (this.#lost < 2) return
    this.#bytes = FLOOR_BYTES
    this.#lost = 0
    this.#restUntil = now + AGAIN_MS
  }
}
