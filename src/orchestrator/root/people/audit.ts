import type { Clock } from '../../../core/kit/clock.ts'
import type { Collection } from '../../../core/kit/collection.ts'
import type { Log } from '../../../core/kit/log.ts'
import { driven, finished, Slices } from '../../../core/kit/slices.ts'

/** Who did what, from where, and what came of it. */
export interface AuditEntry {
  /** Grows. */
  number: number
  /** Milliseconds since 1970. */
  at: number
  user: string
  /** Its token or session, where it has one. */
  token?: string
  /** An address. */
  from: string
  /** A call of the API, as its document names it. */
  call: string
  /** What it was about: names of the path or the body. */
  about?: string
  /** Of the answer. */
  status: number
  requestId: string
  /** Whose administrators may read this. */
  organisations?: readonly string[]
}

export interface AuditQuery {
  user?: string | undefined
  about?: string | undefined
  call?: string | undefined
  since?: number | undefined
  /** Only smaller numbers. */
  before?: number | undefined
  sees: (entry: AuditEntry) => boolean
}

/** In all. Larger keeps more on disk. */
const MOST = 20_000
/** More are made room for at once. */
const ROOM = 200
/** Of what somebody typed. */
const MAX_TEXT = 400
/** Stands among the users; only entries say whose they are. */
const WRONG_LOGINS = 'wrong logins'

/**
 * The audit log: kept in the store of the root, and bounded: when it is full, the oldest entries of the user with the most go, so that nobody
 * can push out what others did. Reading is not in it, but for commands in instances and logs.
 */
export class Audit {
  readonly #kept: Collection<AuditEntry>
  readonly #together: (work: () => void) => void
  readonly #clock: Clock
  readonly #log: Log
  /** The numbers of each user, and of all wrong logins, oldest first; loaded when first needed. */
  #byUser: Map<string, number[]> | undefined
  #size = 0
  #last = 0

  constructor(parts: { kept: Collection<AuditEntry>; together: (work: () => void) => void; clock: Clock; log: Log }) {
    this.#kept = parts.kept
    this.#together = parts.together
    this.#clock = parts.clock
    this.#log = parts.log
  }

  /** Ahead of the first entry, which would otherwise wait for all of it. */
  async load(signal: AbortSignal): Promise<void> {
    const slices = new Slices()
    for (const steps = this.#load(); this.#byUser === undefined && !signal.aborted && steps.next().done !== true; ) {
      if (slices.isOver) await slices.next()
    }
  }

  /** Never throws: what was done was done. */
  record({ about, ...entry }: Omit<AuditEntry, 'number' | 'at'>): void {
    try {
      const byUser = this.#byUser ?? finished(this.#load())
      const number = this.#last + 1
      const text = about === undefined || about === '' ? {} : { about: about.slice(0, MAX_TEXT) }
      const user = entry.user.slice(0, 100)
      const numbers = this.#size < MOST ? [] : longestOf(byUser)
      const gone = numbers.slice(0, ROOM)
      this.#together(() => {
        for (const old of gone) this.#kept.delete(keyOf(old))
        this.#kept.put(keyOf(number), { number, at: this.#clock.wall(), ...entry, user, ...text })
      })
      numbers.splice(0, gone.length)
      remember(byUser, { ...entry, user }, number)
      this.#last = number
      this.#size += 1 - gone.length
    } catch (error) {
      this.#log.error('an entry of the audit log cannot be kept', { error, user: entry.user, path: entry.call })
    }
  }

  /** The newest first; of those that are there when it begins. */
  async list(
    { user, about, call, since = 0, before = Infinity, sees }: AuditQuery,
    most: number,
  ): Promise<AuditEntry[]> {
    const slices = new Slices()
    const byUser = this.#byUser ?? (await driven(this.#load(), slices))
    const found: AuditEntry[] = []
    for (const number of numbersOf(byUser, user)) {
      if (found.length === most) break
      if (number >= before) continue
      if (slices.isOver) await slices.next()
      const entry = this.#kept.get(keyOf(number))
      if (entry === undefined || entry.at < since) continue
      const fits =
        (user === undefined || entry.user === user) &&
        (call === undefined || entry.call === call) &&
        (about === undefined || entry.about?.split(' ').some((name) => isAbout(name, about)) === true)
      if (fits && sees(entry)) found.push(entry)
    }
    return found
  }

  /** Step by step; what is recorded meanwhile has loaded it before this ends, and counts. */
  *#load(): Generator<undefined, Map<string, number[]>> {
    const byUser = new Map<string, number[]>()
    const keys = this.#kept.keys()
    for (const key of keys) {
      const entry = this.#kept.get(key)
      if (entry !== undefined) remember(byUser, entry, entry.number)
      yield
    }
    if (this.#byUser !== undefined) return this.#byUser
    this.#size = keys.length
    this.#last = Math.max(this.#last, Number(keys.at(-1) ?? 0))
    return (this.#byUser = byUser)
  }
}

/** Of the user with the most. */
function longestOf(byUser: ReadonlyMap<string, number[]>): number[] {
  let longest: number[] = []
  for (const numbers of byUser.values()) if (numbers.length > longest.length) longest = numbers
  return longest
}

/** Of everybody or of one user, wrong logins among them; the newest first. */
function numbersOf(byUser: ReadonlyMap<string, readonly number[]>, user: string | undefined): number[] {
  const kinds = user === undefined ? [...byUser.keys()] : new Set([user, WRONG_LOGINS])
  return Array.from(kinds, (kind) => byUser.get(kind) ?? [])
    .flat()
    .toSorted((a, b) => b - a)
}

/** Anybody can fail to log in as somebody else: it does not push out what that user did. */
function remember(byUser: Map<string, number[]>, entry: Pick<AuditEntry, 'user' | 'status'>, number: number): void {
  const kind = entry.status === 401 ? WRONG_LOGINS : entry.user
  const numbers = byUser.get(kind)
  if (numbers === undefined) byUser.set(kind, [number])
  else numbers.push(number)
}

function isAbout(name: string, about: string): boolean {
  return name === about || name.startsWith(`${about}.`) || name.startsWith(`${about}/`)
}

/** In order, as text. */
function keyOf(number: number): string {
  return String(number).padStart(12, '0')
}
