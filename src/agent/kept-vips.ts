import { join } from 'node:path'
import Type from 'typebox'
import { checkerOf } from '../core/kit/checker.ts'
import { AskedVips, FORGET_MS, type HeldVip } from '../../proxy/intercept/asked-vips.ts'
import { KeptFile } from '../core/kit/kept-file.ts'
import { interestOf } from '../core/model/ids.ts'
import type { ChoiceKey } from '../core/model/choice.ts'
import type { VipIndex } from '../core/model/service.ts'
import { VIP_COUNT } from '../core/model/address.ts'
import type { ServiceEntry } from '../core/model/change.ts'
import type { Interests } from '../core/table/interests.ts'
import type { Table } from '../core/table/table.ts'
import type { AgentContext } from './context.ts'

/*
 * The VIPs that programs of this machine may hold, in the state directory, so that without rights they have listeners again as soon as
 * the agent has started again (asked-vips.ts).
 *
 *     file is there ─▶ these
 *     no file, or a damaged one: an earlier version, a disk ─▶ every VIP of the saved table, for a day
 *
 * Ages count only while an agent runs, so a clock that is wrong at the start forgets nothing.
 */

export const HELD_VIPS_FILE = 'vips.json'

/** Between two writes: a burst of questions is written twice. Smaller: more writes; larger: a crash loses more. */
const SETTLE_MS = 500
const DAY_MS = 24 * 3_600_000
/** As many as an agent notes. */
const LIMIT = 4_096

const heldVips = Type.Array(
  Type.Object({
    service: Type.String({ pattern: '^[^.]+(\\.[^.]+){3}$' }),
    vip: Type.Integer({ minimum: 0, maximum: VIP_COUNT - 1 }),
    idleMs: Type.Integer({ minimum: 0 }),
  }),
)
const heldList = checkerOf(heldVips)
const heldFile = checkerOf(Type.Object({ format: Type.Literal(1), held: heldVips }))

export class KeptVips implements AsyncDisposable {
  readonly asked: AskedVips
  readonly #file: KeptFile
  readonly #clock: AgentContext['clock']
  #isReleased = false
  #writtenAt = Number.NEGATIVE_INFINITY
  #cancel: (() => void) | undefined

  private constructor(asked: AskedVips, file: KeptFile, clock: AgentContext['clock']) {
    this.asked = asked
    this.#file = file
    this.#clock = clock
  }

  /** After the table has been restored, and after the agent before this one has released its files. */
  static open(
    { life, dir, clock, log }: Pick<AgentContext, 'life' | 'dir' | 'clock' | 'log'>,
    { table, interests }: KnownServices,
  ): KeptVips {
    const file = life.use(new KeptFile(join(dir, HELD_VIPS_FILE), log, clock))
    const saved = savedIn(file)
    if (saved === undefined && file.readText() !== undefined)
      log.warn('the list of addresses that were asked for is damaged; all known ones count', { path: file.path })
    const asked = new AskedVips(clock, LIMIT)
    asked.take(saved ?? allOf(table.services()))
    const kept = life.use(new KeptVips(asked, file, clock))
    asked.onChange = () => kept.#changed()
    kept.#changed() // what is written next time is the truth, also when it is empty
    // a table that could not be read: what it would still hold
    const recent = asked.snapshot().filter(({ idleMs, service }) => idleMs < DAY_MS && !table.entry(service))
    interests.wish(new Set(recent.map(({ service }) => interestOf(service))))
    return kept
  }

  /** Writes what is not written yet, and nothing after that: a successor keeps the file. */
  async release(): Promise<void> {
    if (this.#isReleased) return
    this.#isReleased = true
    this.#cancel?.()
    await this.#write()
    await this.#file[Symbol.asyncDispose]() // one that could not be written is not tried again by this process
  }

  /** Keeps the file again. */
  reclaim(): void {
    this.#isReleased = false
    this.#changed()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release()
  }

  #changed(): void {
    if (this.#isReleased) return
    const waitMs = Math.max(0, this.#writtenAt + SETTLE_MS - this.#clock.now())
    this.#cancel ??= this.#clock.after(waitMs, () => void this.#write())
  }

  /** A full disk costs nothing now: it is tried again until it succeeds. */
  #write(): Promise<void> {
    this.#cancel = undefined
    this.#writtenAt = this.#clock.now()
    return this.#file.put(JSON.stringify({ format: 1, held: this.asked.snapshot() }))
  }
}

interface KnownServices {
  table: Pick<Table, 'services' | 'entry'>
  interests: Pick<Interests, 'wish'>
}

/** As another agent of this directory tells it. */
export function readHeldVips(value: unknown): readonly HeldVip[] {
  return heldList.Check(value) ? value : []
}

function savedIn(file: KeptFile): readonly HeldVip[] | undefined {
  const content = file.readJson()
  return heldFile.Check(content) ? content.held : undefined
}

function allOf(services: Iterable<ServiceEntry>): HeldVip[] {
  const idleMs = FORGET_MS - DAY_MS
  const found = Array.from(services).flatMap(({ service }) =>
    (Object.entries(service.vips) as [ChoiceKey, VipIndex][]).map(([choice, vip]) => ({
      choice,
      held: { service: service.id, vip, idleMs },
    })),
  )
  const isOfAny = ({ choice }: { choice: string }) => choice.startsWith('any.')
  const inOrder = [...found.filter(isOfAny), ...found.filter((each) => !isOfAny(each))] // no more than LIMIT count
  return inOrder.map(({ held }) => held)
}
