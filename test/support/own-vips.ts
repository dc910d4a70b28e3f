import { vipRange } from '../../src/core/model/address.ts'

/**
 * Where data planes listen that run inside a test's process. Agents on the same machine, those of other tests too, take the first
 * free prefix from 127.16.0.0/12 on, or one that is given; as root they set rules in the kernel for all of it. None of them comes
 * as far as the last prefix.
 */
export const OWN_RANGE = vipRange('127.240.0.0/12')

/** Of the block of this process: tests run beside each other. */
let last = (process.pid % 0xf00) * 0x100

export function nextVip(): number {
  return ++last
}

/** The one that `nextVip` gives next. */
export function followingVip(): number {
  return last + 1
}
