import type { InstanceId } from '../../src/core/model/ids.ts'
import type { Instance } from '../../src/core/model/instance.ts'
import type { Policy } from './contract.ts'
import { FirstFew } from './first-few.ts'

/**
 * `any.pinned`: rendezvous hashing (highest random weight, Thaler and Ravishankar 1998). Each caller ranks all instances
 * by a hash of both names. It moves to its second only when its own instance goes, and back when that one returns. Every
 * agent ranks in the same way, so a caller that moves to another node keeps its instance.
 */
export const pinned: Policy = (running, { caller, limit, memory }) => {
  if (memory.orders?.of !== running || memory.orders.limit !== limit) {
    memory.orders = { of: running, limit, byCaller: new Map() }
  }
  const { byCaller } = memory.orders
  const known = byCaller.get(caller)
  if (known !== undefined) return known
  if (byCaller.size >= CALLERS) byCaller.clear()
  const order = ranked(running, caller, limit)
  byCaller.set(caller, order)
  return order
}

/** Callers whose order is kept until the table changes: more than a node has instances. Each is a few hundred bytes. */
const CALLERS = 256

function ranked(running: readonly Instance[], caller: string, limit: number): readonly Instance[] {
  const seed = hash(caller)
  const hashes = hashesOf(running)
  const few = new FirstFew(limit)
  for (let i = 0; i < running.length; i++) {
    const cost = mix((hashes[i] as number) ^ seed)
    if (few.wants(cost)) few.add(running[i] as Instance, cost)
  }
  return few.inOrder()
}

const hashed = new WeakMap<readonly Instance[], Uint32Array>()

function hashesOf(running: readonly Instance[]): Uint32Array {
  let hashes = hashed.get(running)
  if (hashes === undefined) {
    hashes = Uint32Array.from(running, ({ id }) => hash(id))
    hashed.set(running, hashes)
  }
  return hashes
}

/** FNV-1a, 32 bit, then mixed: ids that differ only in the last digit must differ everywhere. */
function hash(text: InstanceId): number {
  let value = 0x811c9dc5
  for (let i = 0; i < text.length; i++) value = Math.imul(value ^ text.charCodeAt(i), 0x01000193)
  return mix(value)
}

/** The finaliser of MurmurHash3: a bijection, so equal costs come only from equal hashes. */
function mix(value: number): number {
  let mixed = value
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}
