import { subjectOf, type Event } from './event.ts'

export interface EventBounds {
  /** In total. Smaller forgets sooner; 50,000 take about 20 MB of memory and 12 MB of disk. */
  most: number
  /** Of one service (or node, or cluster), so that one that crashes all the time does not push out what happened to the others. */
  mostOfEach: number
}

export const EVENT_BOUNDS: EventBounds = { most: 50_000, mostOfEach: 500 }

interface Kept {
  event: Event
  /** It has been forgotten: its place is freed with the next sweep. */
  isGone: boolean
}

/** The events that are remembered, by number. Adding one and finding a number cost the same, however many there are. */
export class EventHistory {
  readonly #bounds: EventBounds
  /** In the order of their numbers; from `#first` on. */
  #order: Kept[] = []
  #first = 0
  #size = 0
  readonly #bySubject = new Map<string, Kept[]>()
  /** The newest number that was forgotten in total; those of one subject are in `#forgotten`. */
  #forgottenUpTo = 0
  readonly #forgotten = new Map<string, number>()

  constructor(bounds: EventBounds = EVENT_BOUNDS) {
    this.#bounds = bounds
  }

  get size(): number {
    return this.#size
  }

  /** Its number must be larger than those before. */
  add(event: Event): void {
    const kept: Kept = { event, isGone: false }
    const subject = subjectOf(event)
    const same = this.#bySubject.get(subject)
    this.#order.push(kept)
    this.#size++
    if (same === undefined) this.#bySubject.set(subject, [kept])
    else {
      same.push(kept)
      if (same.length > this.#bounds.mostOfEach) this.#forgetOldestOf(subject, same)
    }
    while (this.#size > this.#bounds.most) this.#forgetOldest()
    if (this.#order.length > 2 * this.#bounds.most) this.#sweep()
  }

  /** Those with a larger number, the oldest first. */
  *after(number: number): Generator<Event, void, void> {
    for (let at = this.#positionAfter(number); at < this.#order.length; at++) {
      const { event, isGone } = this.#order[at] as Kept
      if (!isGone) yield event
    }
  }

  /** The newest first. */
  *backwards(): Generator<Event, void, void> {
    for (let at = this.#order.length - 1; at >= this.#first; at--) {
      const { event, isGone } = this.#order[at] as Kept
      if (!isGone) yield event
    }
  }

  /** True when events after this number, of subjects that `fit`, have been forgotten. */
  isMissing(number: number, fits: (subject: string) => boolean): boolean {
    if (number < this.#forgottenUpTo) return true
    for (const [subject, upTo] of this.#forgotten) if (number < upTo && fits(subject)) return true
    return false
  }

  /** What came before this number is not known. */
  beginsAt(number: number): void {
    this.#forgottenUpTo = Math.max(this.#forgottenUpTo, number - 1)
  }

  #positionAfter(number: number): number {
    let low = this.#first
    let high = this.#order.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#order[middle] as Kept).event.number > number) high = middle
      else low = middle + 1
    }
    return low
  }

  #forgetOldestOf(subject: string, same: Kept[]): void {
    const oldest = same.shift()
    if (oldest === undefined) return
    oldest.isGone = true
    this.#size--
    this.#forgotten.set(subject, oldest.event.number)
  }

  #forgetOldest(): void {
    const oldest = this.#order[this.#first++]
    if (oldest === undefined || oldest.isGone) return
    oldest.isGone = true
    this.#size--
    this.#forgottenUpTo = oldest.event.number
    const subject = subjectOf(oldest.event)
    const same = this.#bySubject.get(subject)
    same?.shift() // the oldest of all is the oldest of its own
    if (same?.length !== 0) return
    this.#bySubject.delete(subject)
    this.#forgotten.delete(subject)
  }

  #sweep(): void {
    this.#order = this.#order.slice(this.#first).filter(({ isGone }) => !isGone)
    this.#first = 0
  }
}
