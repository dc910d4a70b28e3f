import type { VipRange } from '../../src/core/model/address.ts'
import type { ServiceId } from '../../src/core/model/ids.ts'
import type { TableView } from '../../src/core/table/view.ts'
import type { LocalFacts } from './decide.ts'
import { rowsOf } from './rows.ts'
import type { Row, Rows } from './rules.ts'

export interface WantedParts {
  readonly table: TableView
  readonly range: VipRange
  readonly facts: LocalFacts
}

/** The rows that the kernel should have; computed again only for services that may have changed. */
export class WantedRows {
  readonly #parts: WantedParts
  readonly #dirty = new Set<ServiceId>()
  readonly #byService = new Map<ServiceId, readonly Row[]>()
  #callers = ''

  constructor(parts: WantedParts) {
    this.#parts = parts
  }

  /** This service may have changed; `undefined`: any may. */
  touch(service: ServiceId | undefined): void {
    if (service !== undefined) this.#dirty.add(service)
    else for (const each of this.#every()) this.#dirty.add(each)
  }

  compute(): Rows {
    const { table, facts, range } = this.#parts
    const callers = facts
      .callers()
      .map((caller) => (caller.kind === 'instance' ? caller.id : ''))
      .join(' ')
    if (callers !== this.#callers) this.touch(undefined) // the callers decide about every row
    this.#callers = callers
    for (const service of this.#dirty) {
      const entry = table.entry(service)
      const rows = entry === undefined ? [] : rowsOf(entry, range, facts)
      if (rows.length === 0) this.#byService.delete(service)
      else this.#byService.set(service, rows)
    }
    this.#dirty.clear()
    return new Map([...this.#byService.values()].flat().map((row) => [row.name, row]))
  }

  *#every(): Iterable<ServiceId> {
    for (const { service } of this.#parts.table.services()) yield service.id
    yield* this.#byService.keys()
  }
}
