/*
 * Archives as POSIX tar reads them (ustar), with regular files only:
 *
 *     0     100   108 116 124    136   148    156 157   257   263 265   297   329        345      500  512
 *     │ name │ mode │uid│gid│ size │ mtime │ sum │'0'│ link │ustar\0│00│ user │ group │ devices │ prefix │  then the bytes, zeros to 512
 *
 * and two blocks of zeros at the end. Names are at most 100 bytes, sizes at most 8 GiB.
 */

const BLOCK = 512
const MAX_NAME = 100
const MAX_SIZE = 0o77777777777

export interface TarFile {
  name: string
  size: number
  mode: number
  /** Seconds since 1970. */
  mtime: number
  /** Who owns it, by name; empty where that is not known. */
  user: string
}

/** The head of a file. @throws RangeError when it does not fit */
export function tarHead({ name, size, mode, mtime, user }: TarFile): Buffer {
  if (Buffer.byteLength(name) > MAX_NAME) throw new RangeError(`the name is too long for an archive: ${name}`)
  if (size > MAX_SIZE) throw new RangeError(`the file is too large for an archive: ${name}`)
  const head = Buffer.alloc(BLOCK)
  const octal = (value: number, at: number, width: number) =>
    head.write(
      `${Math.floor(value)
        .toString(8)
        .padStart(width - 1, '0')}\0`,
      at,
      'latin1',
    )
  head.write(name, 0)
  octal(mode & 0o7777, 100, 8)
  octal(0, 108, 8)
  octal(0, 116, 8)
  octal(size, 124, 12)
  octal(mtime, 136, 12)
  head.write('        0', 148, 'latin1') // the sum is computed with spaces in its place
  head.write('ustar\x0000', 257, 'latin1')
  head.write(user.slice(0, 31), 265)
  head.write(user.slice(0, 31), 297)
  octal(sumOf(head), 148, 7)
  return head
}

/** Behind the bytes of a file. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK)
}

export const TAR_END = Buffer.alloc(2 * BLOCK)

export interface TarEntry extends TarFile {
  /** To be read to its end before the next entry. */
  body: AsyncIterable<Buffer>
}

/** @throws RangeError where it is no such archive, or ends too early */
export async function* readTar(source: AsyncIterable<Buffer>): AsyncIterable<TarEntry> {
  const bytes = new Reader(source)
  for (;;) {
    const head = await bytes.exactly(BLOCK)
    if (head === undefined) throw new RangeError('the archive ends too early')
    if (head.every((byte) => byte === 0)) {
      while ((await bytes.some(BLOCK)) !== undefined); // whoever unpacks it compares its sum at the very end
      return
    }
    const file = parse(head)
    let left = file.size
    const body = async function* () {
      while (left > 0) {
        const some = await bytes.some(left)
        if (some === undefined) throw new RangeError('the archive ends too early')
        left -= some.length
        yield some
      }
    }
    yield { ...file, body: body() }
    if (left > 0) throw new RangeError(`not read to its end: ${file.name}`)
    await bytes.exactly(tarPadding(file.size).length)
  }
}

function parse(head: Buffer): TarFile {
  const text = (at: number, width: number) => head.toString('utf8', at, at + width).replace(/\0[^]*$/, '')
  const octal = (at: number, width: number) => {
    const digits = text(at, width).trim()
    if (!/^[0-7]+$/.test(digits)) throw new RangeError('not an archive')
    return Number.parseInt(digits, 8)
  }
  if (octal(148, 8) !== sumOf(head)) throw new RangeError('not an archive, or damaged')
  const type = text(156, 1)
  if (type !== '0' && type !== '') throw new RangeError(`holds something that is not a file: ${text(0, MAX_NAME)}`)
  const prefix = text(345, 155)
  const name = prefix === '' ? text(0, MAX_NAME) : `${prefix}/${text(0, MAX_NAME)}`
  return { name, mode: octal(100, 8), size: octal(124, 12), mtime: octal(136, 12), user: text(265, 32) }
}

function sumOf(head: Buffer): number {
  let sum = 0
  for (const [at, byte] of head.entries()) sum += at >= 148 && at < 156 ? 0x20 : byte
  return sum
}

class Reader {
  readonly #source: AsyncIterator<Buffer>
  #rest: Buffer = Buffer.alloc(0)

  constructor(source: AsyncIterable<Buffer>) {
    this.#source = source[Symbol.asyncIterator]()
  }

  /** At least one byte and at most so many; `undefined` at the end. */
  async some(most: number): Promise<Buffer | undefined> {
    while (this.#rest.length === 0) {
      const next = await this.#source.next()
      if (next.done === true) return undefined
      this.#rest = next.value
    }
    const taken = this.#rest.subarray(0, most)
    this.#rest = this.#rest.subarray(taken.length)
    return taken
  }

  async exactly(count: number): Promise<Buffer | undefined> {
    const parts: Buffer[] = []
    for (let left = count; left > 0; ) {
      const part = await this.some(left)
      if (part === undefined) return undefined
      parts.push(part)
      left -= part.length
    }
    return Buffer.concat(parts)
  }
}
