import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { lstat, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Type, { type Static } from 'typebox'
import { checkerOf } from '../../core/kit/checker.ts'
import { MeshError } from '../../core/errors.ts'
import { isAlive, statOf, uidsIn } from './process-group.ts'
import { barrierFor } from './user-access.ts'

/*
 * A uid, and the gid of the same number, for each run: taken before it starts and given back when nothing of it is left. Agents of one
 * machine share the uids, so each that is taken has a file, which only root can write:
 *
 *     /run/hedgerow/uids/60578    {"dir": "/var/lib/hedgerow/agent", "pid": 812, "startTime": 5530}    the agent that took it
 */
const CLAIMS = '/run/hedgerow/uids'
/** Users that systemd made up (DynamicUser=); they are in no file that others read. */
const OF_SYSTEMD = '/run/systemd/dynamic-uid'

/** Inclusive. */
export interface UidRange {
  readonly first: number
  readonly last: number
}

const Claim = Type.Object({ dir: Type.String(), pid: Type.Integer({ minimum: 1 }), startTime: Type.Number() })
type Claim = Static<typeof Claim>
const claimed = checkerOf(Claim)

/** `first-last`; the configuration has checked the form. */
export function uidRange(text: string): UidRange {
  const [first = 0, last = 0] = text.split('-').map(Number)
  return { first, last }
}

export class InstanceUsers {
  readonly range: UidRange
  readonly #dir: string
  /** The last that was taken: the next one is another, so that files left anywhere do not change hands at once. */
  #last: number

  private constructor(range: UidRange, dir: string, last: number) {
    this.range = range
    this.#dir = dir
    this.#last = last
  }

  /** `dir` is the agent's own, by which its claims are known. @throws the system's error */
  static open(range: UidRange, dir: string): InstanceUsers {
    mkdirSync(CLAIMS, { recursive: true, mode: 0o755 })
    const count = range.last - range.first + 1
    return new InstanceUsers(range, dir, range.first + Math.floor(Math.random() * count))
  }

  has(uid: number): boolean {
    return uid >= this.range.first && uid <= this.range.last
  }

  /** @throws MeshError RUNTIME_FAILED when all are in use */
  async take(): Promise<number> {
    const { first, last } = this.range
    const count = last - first + 1
    const inUse = await usedUids()
    const candidates = Array.from({ length: count }, (_, i) => first + ((this.#last - first + 1 + i) % count))
    const free = candidates.filter((uid) => !inUse.has(uid) && !existsSync(join(OF_SYSTEMD, String(uid))))
    // A claim whose agent has gone is taken over only when no other uid is left: two agents may see it at the same time.
    const taken = free.find((uid) => this.#claim(uid)) ?? free.find((uid) => this.#isStale(uid) && this.#replace(uid))
    if (taken !== undefined) {
      this.#last = taken
      return taken
    }
    throw new MeshError('RUNTIME_FAILED', {
      reason: `every uid from ${first} to ${last} is in use (agent.instanceUids is the range)`,
    })
  }

  /** An adopted run has it. */
  keep(uid: number): void {
    this.#replace(uid)
  }

  release(uid: number): void {
    rmSync(this.#path(uid), { force: true })
  }

  /** Those that an earlier agent of this directory had taken. */
  claimed(): number[] {
    return readdirSync(CLAIMS)
      .map(Number)
      .filter((uid) => this.#claimOf(uid)?.dir === this.#dir)
  }

  /** Those of agents that ended and whose directory is gone, so that none will free them. Whatever still runs as one keeps it. */
  async abandoned(): Promise<number[]> {
    const inUse = await usedUids()
    const uids = readdirSync(CLAIMS).map(Number)
    return uids.filter((uid) => {
      const claim = this.#claimOf(uid)
      return claim !== undefined && this.#isStale(uid) && !existsSync(claim.dir) && !inUse.has(uid)
    })
  }

  #claim(uid: number): boolean {
    try {
      writeFileSync(this.#path(uid), this.#own(), { flag: 'wx', mode: 0o600 })
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
      throw error
    }
  }

  #replace(uid: number): boolean {
    writeFileSync(this.#path(uid), this.#own(), { mode: 0o600 })
    return true
  }

  #isStale(uid: number): boolean {
    const claim = this.#claimOf(uid)
    return claim === undefined || !isAlive(claim.pid, claim.startTime)
  }

  #claimOf(uid: number): Claim | undefined {
    try {
      const claim: unknown = JSON.parse(readFileSync(this.#path(uid), 'utf8'))
      return claimed.Check(claim) ? claim : undefined
    } catch {
      return undefined
    }
  }

  #own(): string {
    const { pid } = process
    return JSON.stringify({ dir: this.#dir, pid, startTime: statOf(pid)?.startTime ?? 0 } satisfies Claim)
  }

  #path(uid: number): string {
    return join(CLAIMS, String(uid))
  }
}

/** An empty directory of this user, its HOME and TMPDIR. @throws the system's error */
export function makeHome(uid: number): string {
  const home = mkdtempSync(join(above(uid), `hedgerow-${uid}-`))
  chownSync(home, uid, uid)
  return home
}

/** Once nothing runs as this user: nobody can change what is being removed. */
export async function removeHomes(uid: number): Promise<void> {
  const names = (await readdir(above(uid)).catch(() => [])).filter((name) => name.startsWith(`hedgerow-${uid}-`))
  for (const path of names.map((name) => join(above(uid), name))) {
    const found = await lstat(path).catch(() => undefined)
    if (found?.uid === uid) await rm(path, { recursive: true, force: true }).catch(() => undefined) // it stays in /tmp
  }
}

function above(uid: number): string {
  return barrierFor(uid, tmpdir()) === undefined ? tmpdir() : '/tmp'
}

/** Those that processes run as, that have a name or are given to somebody's containers. A machine may have thousands of processes. */
async function usedUids(): Promise<{ has(uid: number): boolean }> {
  const used = new Set<number>()
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    for (const uid of uidsIn(await readFile(`/proc/${pid}/status`, 'latin1').catch(ended))) used.add(uid)
  }
  for (const line of [...read('/etc/passwd').split('\n'), ...read('/etc/group').split('\n')]) {
    used.add(Number(line.split(':')[2]))
  }
  const ranges = [...read('/etc/subuid').split('\n'), ...read('/etc/subgid').split('\n')]
    .map((line) => line.split(':').map(Number))
    .map(([, first = Number.NaN, count = 0]) => ({ first, count }))
  return {
    has: (uid) => used.has(uid) || ranges.some(({ first, count }) => uid >= first && uid < first + count),
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return '' // there is no such file here
  }
}

function ended(): string {
  return ''
}
