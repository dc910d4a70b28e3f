import { MeshError } from '../errors.ts'

export interface SlicedWorkOptions {
  /** How long work is started in one turn of the event loop. Smaller costs turns, larger delays whatever else waits. */
  sliceMs?: number
  /** How much may be under way. */
  atOnce?: number
  /** What the beginnings of one slice have in common, such as a transaction. When it throws, all of them are rejected with that. */
  together?: (slice: () => void) => void
  /** `together` failed. */
  onFailure?: (error: unknown) => void
  /** Milliseconds. */
  now?: () => number
}

interface Task {
  key: string
  begin: () => Promise<void>
  reject: (error: unknown) => void
}

/**
 * Work by key: of one key one at a time and in order, of different keys side by side.
 *
 *     add ─▶ waiting ─▶ slice: begun, one after the other, up to its first `await` ─▶ under way ─▶ done: the next of its key waits
 *                         └ the rest in the next turn
 */
export class SlicedWork {
  readonly #options: Required<SlicedWorkOptions>
  /** Of each key with work: what waits behind the one that is waiting or under way. */
  readonly #behind = new Map<string, Task[]>()
  #waiting: Task[] = []
  /** Steps of what is under way. */
  #continuations: Omit<Task, 'key'>[] = []
  #underWay = 0
  #isDue = false
  #onIdle: Array<() => void> = []

  constructor({
    sliceMs = 8,
    atOnce = 512,
    together = (slice) => slice(),
    onFailure = () => undefined,
    now = () => performance.now(),
  }: SlicedWorkOptions = {}) {
    this.#options = { sliceMs, atOnce, together, onFailure, now }
  }

  /** Resolves or rejects as `work` does. @throws MeshError NOT_RUNNING when it is cleared before it begins */
  add<T>(key: string, work: () => Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    const begin = () => Promise.try(work).then(resolve, reject)
    const behind = this.#behind.get(key)
    if (behind === undefined) {
      this.#behind.set(key, [])
      this.#waiting.push({ key, begin, reject })
      this.#due()
    } else behind.push({ key, begin, reject })
    return promise
  }

  /**
   * A step of work that is under way, in the slice of the next turn with the first steps of others. It begins however much is under way:
   * otherwise all that is would wait for a place that none of it leaves.
   */
  continued<T>(work: () => Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>()
    const begin = () => Promise.try(work).then(resolve, reject)
    this.#continuations.push({ begin, reject })
    this.#due()
    return promise
  }

  /** Forgets what has not begun. */
  clear(): void {
    const behind = [...this.#behind.values()].flatMap((tasks) => tasks.splice(0))
    for (const { key } of this.#waiting) this.#behind.delete(key)
    for (const { reject } of [...this.#waiting.splice(0), ...this.#continuations.splice(0), ...behind])
      reject(new MeshError('NOT_RUNNING', { what: 'this work' }))
    this.#settle()
  }

  /** Nothing is waiting or under way. */
  onIdle(): Promise<void> {
    if (this.#behind.size === 0) return Promise.resolve()
    return new Promise((resolve) => this.#onIdle.push(resolve))
  }

  #due(): void {
    const mayBegin = this.#waiting.length > 0 && this.#underWay < this.#options.atOnce
    if (this.#isDue || (!mayBegin && this.#continuations.length === 0)) return
    this.#isDue = true
    setImmediate(() => {
      this.#isDue = false
      this.#slice()
      this.#due()
    })
  }

  #slice(): void {
    const { sliceMs, atOnce, together, onFailure, now } = this.#options
    const until = now() + sliceMs
    let [continued, begun] = [0, 0]
    try {
      together(() => {
        while (continued < this.#continuations.length && now() < until) void this.#continuations[continued++]?.begin()
        while (begun < this.#waiting.length && this.#underWay < atOnce && now() < until) {
          const task = this.#waiting[begun++] as Task
          this.#underWay += 1
          void task.begin().finally(() => this.#done(task.key))
        }
      })
    } catch (error) {
      // before any of them resolves: that takes another turn of the queue of promises
      for (const { reject } of [...this.#continuations.slice(0, continued), ...this.#waiting.slice(0, begun)])
        reject(error)
      onFailure(error)
    }
    this.#continuations.splice(0, continued)
    this.#waiting.splice(0, begun)
  }

  #done(key: string): void {
    this.#underWay -= 1
    const next = this.#behind.get(key)?.shift()
    if (next === undefined) this.#behind.delete(key)
    else this.#waiting.push(next)
    this.#due()
    this.#settle()
  }

  #settle(): void {
    if (this.#behind.size === 0) for (const idle of this.#onIdle.splice(0)) idle()
  }
}
