/** mulberry32: small, fast, and the same sequence for the same seed on every machine. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Values at which decoders break: signs, limits of lengths, and what ends or escapes a text. */
const INTERESTING = [0, 1, 0x7f, 0x80, 0xff, 0x0a, 0x0d, 0x20, 0x22, 0x25, 0x2e, 0x3a, 0x5c, 0x7b, 0x7d]
const WORDS = [0, 1, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff]
/** A text, a number, a word, an object or a list without another in it, as JSON has them. */
const VALUE = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|\b(?:true|false|null)\b|\{[^{}]*\}|\[[^[\]]*\]/g
/** What stands in its place: another type, or a limit. */
const VALUES = [
  'null',
  'true',
  '0',
  '-1',
  '0.5',
  '1e99',
  '9007199254740993',
  '""',
  '"x"',
  '"__proto__"',
  '[]',
  '[null]',
  '{}',
  '{"x":1}',
]
/** Looking for values in more than this takes longer than it is worth. */
const LONGEST_TEXT = 16 * 1024
const MOST_CHANGES = 6
/** Longer inputs say nothing new and are slower. */
const MOST_BYTES = 72 * 1024

type Random = () => number
type Mutation = (bytes: Buffer, random: Random, other: Buffer) => Buffer

const below = (random: Random, limit: number) => Math.floor(random() * limit)
const pick = <T>(random: Random, items: readonly T[]) => items[below(random, items.length)]!

const MUTATIONS: readonly Mutation[] = [
  function flipBit(bytes, random) {
    const at = below(random, bytes.length)
    bytes[at]! ^= 1 << below(random, 8)
    return bytes
  },
  function setByte(bytes, random) {
    bytes[below(random, bytes.length)] = random() < 0.5 ? pick(random, INTERESTING) : below(random, 256)
    return bytes
  },
  function setWord(bytes, random) {
    const size = pick(random, [2, 3, 4])
    if (bytes.length < size) return bytes
    bytes.writeUIntBE(pick(random, WORDS) % 2 ** (8 * size), below(random, bytes.length - size + 1), size)
    return bytes
  },
  function insert(bytes, random) {
    const at = below(random, bytes.length + 1)
    const added = Buffer.from(Array.from({ length: 1 + below(random, 8) }, () => below(random, 256)))
    return Buffer.concat([bytes.subarray(0, at), added, bytes.subarray(at)])
  },
  function remove(bytes, random) {
    const from = below(random, bytes.length)
    return Buffer.concat([bytes.subarray(0, from), bytes.subarray(from + 1 + below(random, bytes.length - from))])
  },
  function truncate(bytes, random) {
    return bytes.subarray(0, below(random, bytes.length))
  },
  function repeat(bytes, random) {
    const from = below(random, bytes.length)
    const part = bytes.subarray(from, from + 1 + below(random, Math.min(64, bytes.length - from)))
    const times = 1 + below(random, random() < 0.1 ? 200 : 4)
    return Buffer.concat([bytes.subarray(0, from), ...Array.from({ length: times }, () => part), bytes.subarray(from)])
  },
  function setValue(bytes, random) {
    const values = bytes.length > LONGEST_TEXT ? [] : [...bytes.toString('latin1').matchAll(VALUE)]
    if (values.length === 0) return bytes
    const { 0: value, index } = pick(random, values)
    const tail = bytes.subarray(index + value.length)
    return Buffer.concat([bytes.subarray(0, index), Buffer.from(pick(random, VALUES)), tail])
  },
  function splice(bytes, random, other) {
    return Buffer.concat([
      bytes.subarray(0, below(random, bytes.length + 1)),
      other.subarray(below(random, other.length + 1)),
    ])
  },
]

/** A changed copy of one input of the corpus. */
export function mutate(corpus: readonly Buffer[], random: Random): Buffer {
  let bytes = Buffer.from(pick(random, corpus))
  for (let left = 1 + below(random, MOST_CHANGES); left > 0; left -= 1) {
    if (bytes.length === 0) bytes = Buffer.from([below(random, 256)])
    bytes = Buffer.from(pick(random, MUTATIONS)(bytes, random, pick(random, corpus)))
  }
  return bytes.subarray(0, MOST_BYTES)
}
