/** One thing that is wrong in a document, or only suspicious (a warning). */
export interface Fault {
  /** `applications[0].microservices[1].port`, or `shop.yaml:24:3` when the text itself cannot be read. */
  path: string
  problem: string
  remedy?: string
}

/** How many faults, and how many warnings, are listed. More would let a document make the answer arbitrarily long. */
const MAX_LISTED = 200

/** What the parser has found so far: all of it is reported at once, never only the first. */
export class Findings {
  readonly #faults: Fault[] = []
  readonly #warnings: Fault[] = []
  #omittedFaults = 0
  #omittedWarnings = 0

  get isClean(): boolean {
    return this.#faults.length === 0
  }

  /** False when further warnings are only counted, so that there is no need to compute a remedy. */
  get hasRoom(): boolean {
    return this.#warnings.length < MAX_LISTED
  }

  fault(path: string, problem: string, remedy?: string): void {
    if (this.#faults.length < MAX_LISTED) this.#faults.push(faultOf(path, problem, remedy))
    else this.#omittedFaults += 1
  }

  warn(path: string, problem: string, remedy?: string): void {
    if (this.#warnings.length < MAX_LISTED) this.#warnings.push(faultOf(path, problem, remedy))
    else this.#omittedWarnings += 1
  }

  faults(): Fault[] {
    return listed(this.#faults, this.#omittedFaults)
  }

  warnings(): Fault[] {
    return listed(this.#warnings, this.#omittedWarnings)
  }
}

/** Text from a document for use in a sentence: printable, and at most `limit` characters. */
export function quoted(text: string, limit = 60): string {
  return JSON.stringify(text.length > limit ? `${text.slice(0, limit)}…` : text)
}

function faultOf(path: string, problem: string, remedy: string | undefined): Fault {
  return { path: path === '' ? 'document' : path, problem, ...(remedy === undefined ? {} : { remedy }) }
}

function listed(list: readonly Fault[], omitted: number): Fault[] {
  return omitted === 0 ? [...list] : [...list, { path: 'document', problem: `${omitted} more` }]
}
