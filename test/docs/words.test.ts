import { readFileSync } from 'node:fs'
import { execFileSync } from 'node:child_process'
import { resolve } from 'node:path'
import t from 'tap'

/** docs/glossary.md lists the words that were retired; none of them is used again. */

const ROOT = resolve(import.meta.dirname, '../..')

/** Words on the wire, in JSON, or of somebody else, which stay: a part of the path, and the line must match. */
const EXEMPT: ReadonlyArray<readonly [file: string, line: RegExp]> = [
  ['docs/glossary.md', /./],
  ['test/docs/words.test.ts', /./],
  ['LICENSE', /./],
  ['package-lock.json', /./],
  ['test/', /\bturns\b/], // of the event loop, or of round robin
  ['test/', /\/.*\bworks\b.*\//], // the verb, in a pattern
  ['test/orchestrator/', /"tell":/], // an unknown notification, on the wire
  // The relay's wire: the message `knock`, `knocks` in `welcome`, the parameter `knock=` and the header `hedgerow-knocks`.
  [
    '',
    /'knock'|`knocks?`|"knocks?"|\bknocks: true|\bknocks === true|\bknock=|\bknocks: Type|hedgerow-knocks|── knock\(/,
  ],
  // A feature bit and a role of the carrier protocol.
  // What one peer may take of an instance, beside the others.
  ['proxy/inbound/', /shares/i],
  ['test/proxy/', /shares/i],
  // JSON of the agent's local API.
  ['src/', /asidePaths/],
  // An older name in the JSON of /readyz.
  ['docs/operations.md', /`door`/],
  ['CHANGELOG.md', /`door`/],
  ['src/roles/ops-server.ts', /\bdoor: listener/],
  ['test/roles/ops-server.test.ts', /\bdoor\b/],
  ['test/walks/', /asidePaths/],
  ['proxy/', /inFlight|InFlight|in-flight/],
  ['test/', /inFlight|InFlight|in-flight/],
]

type Where = 'everywhere' | 'names' | 'exact names' | 'type names' | 'method names'

interface Retired {
  word: string
  where: Where
}

interface Found {
  path: string
  line: number
  word: string
  text: string
}

function retiredWords(): Retired[] {
  const glossary = readFileSync(resolve(ROOT, 'docs/glossary.md'), 'utf8').split('## Retired words')[1] ?? ''
  return [
    ...glossary.matchAll(/^\| (.+?) \| (everywhere|names|exact names|type names|method names) \| .+ \|$/gm),
  ].flatMap(([, words = '', where]) => words.split(', ').map((word) => ({ word, where: where as Where })))
}

function patternOf({ word, where }: Retired): RegExp {
  const capital = `${word.slice(0, 1).toUpperCase()}${word.slice(1)}`
  switch (where) {
    case 'everywhere':
      return new RegExp(`(?<![a-z])${word}(?![a-z])|(?<=[a-z])${capital}(?![a-z])|(?<![A-Za-z])${capital}(?![a-z])`)
    case 'names':
      return new RegExp(
        `(?<![a-zA-Z])${word}(?=[A-Z(.;:,)?]|$)|(?<=[a-z])${capital}(?![a-z])|(?<![A-Za-z])${capital}(?![a-z])`,
      )
    case 'exact names':
      return new RegExp(`(?<![A-Za-z.])(?:#|this\\.)?${word}(?![A-Za-z])|\\b${capital}\\b`)
    case 'type names':
      return new RegExp(`\\b(?:interface|type|class) ${word}\\b`)
    case 'method names':
      return new RegExp(`(?:\\.|#|function |^ +(?:async )?)${word}\\(`)
    default:
      return where satisfies never
  }
}

/** Names are looked for in code only: without comments and texts. */
function codeOf(line: string): string {
  return /^\s*(?:\*|\/\*|\/\/)/.test(line) ? '' : line.replaceAll(/'[^']*'|"[^"]*"|`[^`]*`|\/\/ .*$|\/\*.*?\*\//g, "''")
}

function files(): string[] {
  return execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: ROOT, encoding: 'utf8' })
    .split('\n')
    .filter((path) => /\.(?:ts|js|cjs|mjs|md|yaml|service)$|^Dockerfile$/.test(path))
}

export function findings(): Found[] {
  const words = retiredWords().map((retired) => ({ ...retired, pattern: patternOf(retired) }))
  return files().flatMap((path) => {
    const isCode = /\.(?:ts|js|cjs|mjs)$/.test(path)
    const exempt = EXEMPT.filter(([part]) => path.includes(part)).map(([, line]) => line)
    const inPath = (exempt.some((line) => line.test(path)) ? [] : words).filter(
      ({ pattern, where }) => where !== 'method names' && where !== 'type names' && pattern.test(path),
    )
    const inText = readFileSync(resolve(ROOT, path), 'utf8')
      .split('\n')
      .flatMap((text, at) => {
        if (exempt.some((line) => line.test(text))) return []
        return words
          .filter(({ where, pattern }) =>
            where === 'everywhere' ? pattern.test(text) : isCode && pattern.test(codeOf(text)),
          )
          .map(({ word }) => ({ path, line: at + 1, word, text: text.trim() }))
      })
    return [...inPath.map(({ word }) => ({ path, line: 0, word, text: path })), ...inText]
  })
}

if (process.argv.includes('--count')) {
  const found = findings()
  const rooms = Map.groupBy(found, ({ path }) =>
    path
      .split('/')
      .slice(0, path.startsWith('proxy/tunnel') || path.startsWith('src/orch') ? 3 : 2)
      .join('/'),
  )
  console.log(`${found.length} retired words`)
  for (const [room, list] of [...rooms].toSorted((a, b) => b[1].length - a[1].length)) {
    const byWord = [...Map.groupBy(list, ({ word }) => word)].map(([word, all]) => `${word} ${all.length}`)
    console.log(`${String(list.length).padStart(5)}  ${room}: ${byWord.join(', ')}`)
  }
  if (process.argv.includes('--all'))
    for (const { path, line, word, text } of found) console.log(`${path}:${line}: ${word}: ${text.slice(0, 120)}`)
  process.exit(0)
}

t.test('no retired word is used', async (t) => {
  t.ok(retiredWords().length > 40, 'the list was read')
  t.same(
    findings().map(({ path, line, word }) => `${path}:${line}: ${word}`),
    [],
    'docs/glossary.md has the words to use instead',
  )
})
