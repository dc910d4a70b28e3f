/** One thing that is wrong, or merely odd, in a document. */
export interface Fault {
  /** `applications[0].microservices[1].port`, or `shop.yaml:24:3` when the text itself cannot be read. */
  path: string
  problem: string
  remedy?: string
}

/** More than this helps nobody and lets a document make us write a long answer. */
const MAX_TOLD = 200

/** What the parser found so far: everything is told at once, never only the first. */
export class Findings {
  readonly #faults: Fault[] = []
  readonly #warnings: Fault[] = []
  #untoldFaults = 0
  #untoldWarnings = 0

  get isClean(): boolean {
    return this.#faults.length === 0
  }

  /** False when one more warning would only be counted: costly remedies need not be looked for. */
  get hasRoom(): boolean {
    return this.#warnings.length < MAX_TOLD
  }

  fault(path: string, problem: string, remedy?: string): void {
    if (this.#faults.length < MAX_TOLD) this.#faults.push(faultOf(path, problem, remedy))
    else this.#untoldFaults += 1
  }

  warn(path: string, problem: string, remedy?: string): void {
    if (this.#warnings.length < MAX_TOLD) this.#warnings.push(faultOf(path, problem, remedy))
    else this.#untoldWarnings += 1
  }

  faults(): Fault[] {
    return told(this.#faults, this.#untoldFaults)
  }

  warnings(): Fault[] {
    return told(this.#warnings, this.#untoldWarnings)
  }
}

/** At most `limit` characters, made printable: what people typed goes into sentences. */
export function quoted(text: string, limit = 60): string {
  return JSON.stringify(text.length > limit ? `${text.slice(0, limit)}…` : text)
}

function faultOf(path: string, problem: string, remedy: string | undefined): Fault {
  return { path: path === '' ? 'document' : path, problem, ...(remedy === undefined ? {} : { remedy }) }
}

function told(list: readonly Fault[], untold: number): Fault[] {
  return untold === 0 ? [...list] : [...list, { path: 'document', problem: `${untold} more of these` }]
}
