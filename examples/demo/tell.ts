import { stripVTControlCharacters, styleText } from 'node:util'

export type Facts = Readonly<Record<string, unknown>>

/** Where the demo speaks: for people with commands and their output, or one JSON object a line, one a step. */
export interface Teller {
  /** A new chapter. */
  readonly step: (name: string, title: string) => void
  /** What goes on while one waits; overwritten by the next on a terminal. */
  readonly progress: (sentence: string) => void
  readonly command: (line: string) => void
  readonly output: (text: string) => void
  readonly fact: (sentence: string) => void
  /** The step is over; `facts` are its result. */
  readonly done: (facts: Facts) => void
}

export function teller(asJson: boolean): Teller {
  let name = ''
  let startedAt = performance.now()
  const seconds = () => Number(((performance.now() - startedAt) / 1_000).toFixed(1))
  if (asJson) {
    const silent = () => undefined
    return {
      step: (next) => {
        name = next
        startedAt = performance.now()
      },
      progress: silent,
      command: silent,
      output: silent,
      fact: silent,
      done: (facts) => say(JSON.stringify({ step: name, ok: true, seconds: seconds(), ...facts })),
    }
  }
  let passing = ''
  const line = (text: string) => {
    if (passing !== '' && process.stdout.isTTY) process.stdout.write('\r\u001b[K')
    passing = ''
    say(text)
  }
  return {
    step: (next, title) => {
      name = next
      startedAt = performance.now()
      line(`\n${styleText('bold', `▶ ${title}`)}`)
    },
    progress: (sentence) => {
      if (sentence === passing) return
      if (process.stdout.isTTY) process.stdout.write(`\r\u001b[K  … ${sentence}`)
      else say(`  … ${sentence}`)
      passing = sentence
    },
    command: (text) => line(styleText('cyan', `  $ ${text}`)),
    output: (text) => {
      for (const row of stripVTControlCharacters(text).trimEnd().split('\n')) line(`    ${row}`)
    },
    fact: (sentence) => line(`  ${styleText('green', '✔')} ${sentence}`),
    done: () => line(styleText('dim', `  (${seconds()} s)`)),
  }
}

export function say(line: string): void {
  process.stdout.write(`${line}\n`)
}
