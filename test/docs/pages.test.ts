import { existsSync, readdirSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import t from 'tap'
import type { Command } from 'commander'
import { programOf } from '../../src/cli/program.ts'
import { blocksOf, linksOf, page, ROOT } from './markdown.ts'

const PAGES = ['README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md']
  .concat(readdirSync(resolve(ROOT, 'docs')).map((name) => `docs/${name}`))
  .filter((path) => path.endsWith('.md'))

t.test('every link between the documents leads somewhere', async (t) => {
  const dead = PAGES.flatMap((path) =>
    linksOf(page(path))
      .filter((to) => !existsSync(resolve(ROOT, join(dirname(path), to))))
      .map((to) => `${path} → ${to}`),
  )
  t.same(dead, [])
})

t.test('every page of docs/ is in its index', async (t) => {
  const listed = linksOf(page('docs/README.md'))
  t.same(
    PAGES.filter((path) => path.startsWith('docs/') && path !== 'docs/README.md' && !listed.includes(path.slice(5))),
    [],
  )
})

t.test('the rows of a table have as many cells as its head: a | inside code is escaped', async (t) => {
  const wrong: string[] = []
  for (const path of PAGES) {
    let cells = 0
    for (const [at, line] of page(path).split('\n').entries()) {
      const count = line.startsWith('|') ? line.replaceAll('\\|', '').split('|').length : 0
      if (cells > 0 && count > 0 && count !== cells) wrong.push(`${path}:${at + 1}`)
      cells = count
    }
  }
  t.same(wrong, [])
})

t.test('the security page has each rule, and the tests it names exist', async (t) => {
  const rows = page('docs/security.md')
    .split('\n')
    .filter((line) => /^\| SEC-\d+ \|/.test(line))
  t.same(
    rows.map((row) => Number(/SEC-(\d+)/.exec(row)?.[1])),
    Array.from({ length: 32 }, (_, at) => at + 1),
  )
  for (const row of rows) {
    const files = [...row.matchAll(/`((?:test|src|proxy)\/[^`]+)`/g)].map(([, path = '']) => path)
    t.ok(
      files.some((path) => path.startsWith('test/')),
      row.slice(0, 12),
    )
    for (const path of files) t.ok(existsSync(resolve(ROOT, path)), path)
  }
})

t.test('every command that the documents mention exists, with its options', async (t) => {
  const program = programOf('0.0.0', () => {
    throw new Error('no command runs here')
  })
  const scripts = Object.keys((JSON.parse(page('package.json')) as { scripts: object }).scripts)
  const wrong: string[] = []
  for (const path of PAGES) {
    for (const line of commandsOf(page(path))) {
      const [tool, ...words] = line.split(/\s+/)
      const fault = tool === 'npm' ? unknownScript(words, scripts) : unknownCommand(program, words)
      if (fault !== undefined) wrong.push(`${path}: ${line}: ${fault}`)
    }
  }
  t.same(wrong, [])
})

/** `hedgerow …` and `npm run …`, inline or in a block, up to what a shell would end it with. */
function commandsOf(markdown: string): string[] {
  const inline = [...markdown.matchAll(/`((?:hedgerow|npm run) [^`]+)`/g)].map(([, line = '']) => line)
  const blocks = blocksOf(markdown).filter(({ syntax }) => syntax === 'sh')
  const typed = blocks.flatMap(({ text }) => text.split('\n')).filter((line) => /^(?:hedgerow|npm run) /.test(line))
  return [...inline, ...typed].map((line) => line.replace(/ *(?:[|>&;#]|-- ).*$/, '').trim())
}

function unknownScript([, script = '']: readonly string[], scripts: readonly string[]): string | undefined {
  return script === 'hedgerow' || scripts.includes(script) ? undefined : 'no such script'
}

function unknownCommand(program: Command, words: readonly string[]): string | undefined {
  let command = program
  for (const word of words) {
    if (word.startsWith('-')) {
      const flag = word.split('=')[0]
      const isKnown = [...command.options, ...program.options].some(
        ({ short, long }) => short === flag || long === flag,
      )
      if (!isKnown && flag !== '--help') return `no option ${flag}`
      continue
    }
    const next = command.commands.find((one) => one.name() === word)
    if (next !== undefined) command = next
    else if (command === program && /^[a-z]/.test(word)) return `no command ${word}`
  }
  return undefined
}
