/** More are forgotten, oldest first. Larger: more memory a session; smaller: fewer flows may end while an OPEN is on its way again. */
const LIMIT = 4_096

/**
 * Streams that the peer opened, with bytes that travel early, and that have ended: an OPEN of one of them that is said again, as
 * its carrier was lost, must not be taken twice. Looked through only then; remembering costs one store.
 */
export class Tombstones {
  #ids: Uint32Array | undefined
  #next = 0

  add(stream: number): void {
    this.#ids ??= new Uint32Array(LIMIT)
    this.#ids[this.#next] = stream
    this.#next = (this.#next + 1) % LIMIT
  }

  has(stream: number): boolean {
    return this.#ids?.includes(stream) === true
  }
}
