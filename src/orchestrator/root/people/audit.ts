import type { Clock } from '../../../core/kit/clock.ts'
import type { Collection } from '../../../core/kit/collection.ts'
import type { Log } from '../../../core/kit/log.ts'

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

  /** Never throws: what was done was done. */
  record({ about, ...entry }: Omit<AuditEntry, 'number' | 'at'>): void {
    try {
      const byUser = this.#loaded()
      const number = ++this.#last
      const text = about === undefined || about === '' ? {} : { about: about.slice(0, MAX_TEXT) }
      const user = entry.user.slice(0, 100)
      this.#together(() => {
        if (this.#size >= MOST) this.#makeRoom(byUser)
        this.#kept.put(keyOf(number), { number, at: this.#clock.wall(), ...entry, user, ...text })
      })
      remember(byUser, { ...entry, user }, number)
      this.#size++
    } catch (error) {
      this.#byUser = undefined // as it is on disk
      this.#log.error('an entry of the audit log cannot be kept', { error, user: entry.user, path: entry.call })
    }
  }

  /** The newest first. */
  list({ user, about, call, since = 0, before = Infinity, sees }: AuditQuery, most: number): AuditEntry[] {
    this.#loaded()
    const found: AuditEntry[] = []
    for (const key of this.#kept.keys().toReversed()) {
      if (found.length === most) break
      if (Number(key) >= before) continue
      const entry = this.#kept.get(key)
      if (entry === undefined || entry.at < since) continue
      const fits =
        (user === undefined || entry.user === user) &&
        (call === undefined || entry.call === call) &&
        (about === undefined || entry.about?.split(' ').some((name) => isAbout(name, about)) === true)
      if (fits && sees(entry)) found.push(entry)
    }
    return found
  }

  #loaded(): Map<string, number[]> {
    if (this.#byUser !== undefined) return this.#byUser
    const byUser = new Map<string, number[]>()
    const entries = this.#kept.list()
    for (const entry of entries) remember(byUser, entry, entry.number)
    this.#size = entries.length
    this.#last = Math.max(this.#last, entries.at(-1)?.number ?? 0)
    this.#byUser = byUser
    return byUser
  }

  #makeRoom(byUser: Map<string, number[]>): void {
    const [most] = [...byUser].toSorted(([, a], [, b]) => b.length - a.length)
    for (const number of most?.[1].splice(0, ROOM) ?? []) {
      this.#kept.delete(keyOf(number))
      this.#size--
    }
  }
}

/** Anybody can fail to log in as somebody else: it does not push out what that user did. */
function remember(byUser: Map<string, number[]>, entry: Pick<AuditEntry, 'user' | 'status'>, number: number): void {
  const kind = entry.status === 401 ? 'wrong logins' : entry.user
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
