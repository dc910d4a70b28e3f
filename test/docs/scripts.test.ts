import { readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import t from 'tap'
import { run } from '../../src/lab/program.ts'
import { page, ROOT } from './markdown.ts'

/** The scripts of package.json that are programs of this repository, and what the documents say of their options. */

const { scripts } = JSON.parse(page('package.json')) as { scripts: Record<string, string> }
const OURS = Object.entries(scripts).flatMap(([name, line]) => {
  const [, file] = /^node \.config\/node24\.cjs (?:--\S+ )*(\S+\.ts)$/.exec(line) ?? []
  return file === undefined ? [] : [{ name: name === 'test' ? 'npm test' : `npm run ${name}`, file }]
})
const PAGES = ['README.md', 'CONTRIBUTING.md']
  .concat(readdirSync(resolve(ROOT, 'docs')).map((name) => `docs/${name}`))
  .filter((path) => path.endsWith('.md'))

const script = (file: string, ...args: string[]) => run([process.execPath, resolve(ROOT, file), ...args])

t.ok(OURS.length >= 10, 'the scripts were found')
for (const { name, file } of OURS) {
  t.test(`${name} --help prints its options, those of its head comment and of the documents among them`, async (t) => {
    const { code, stdout, stderr } = await script(file, '--help')
    t.match({ code, stderr }, { code: 0, stderr: '' })
    t.equal(stdout.slice(0, stdout.indexOf(']') + 1), `Usage: ${name} -- [options]`)
    const listed = new Set([...stdout.matchAll(/^ {2}(--[\w-]+)/gm)].map(([, option]) => option))
    const lines = [file, ...PAGES].flatMap((path) => linesOf(page(path), name).map((line) => ({ path, line })))
    for (const { path, line } of lines)
      for (const [option] of line.matchAll(/--[a-z][\w-]*/g)) t.ok(listed.has(option), `${path}: ${line}`)
  })

  t.test(`${name} refuses an option that it does not have with one sentence and exit code 2`, async (t) => {
    const { code, stdout, stderr } = await script(file, '--no-such-option')
    t.same([code, stdout], [2, ''])
    t.equal(stderr, `${name}: no option --no-such-option; --help lists them\n`)
  })
}

t.test('a value that makes no sense is refused with one sentence and exit code 2', async (t) => {
  const rows = [
    { args: ['--minutes', 'long'], says: 'npm run fuzz: --minutes takes a number, not "long"\n' },
    { args: ['--minutes', '-1'], says: /^npm run fuzz: .*'--minutes'.* ambiguous.*\n$/ },
    { args: ['--only', '('], says: /^npm run fuzz: --only takes a regular expression: [^\n]+\n$/ },
    { args: ['everything'], says: 'npm run fuzz: everything is no option; --help lists them\n' },
  ]
  for (const { args, says } of rows) {
    const { code, stderr } = await script('test/fuzz/main.ts', ...args)
    t.equal(code, 2, args.join(' '))
    t.match(stderr, says)
  }
  const nothing = await script('test/bench/main.ts', '--only', 'no-such-row', '--no-install')
  t.match(nothing, { code: 2, stderr: 'npm run bench: no row matches /no-such-row/i\n' })
})

/** What stands behind `NAME --` in a page or in a comment. */
function linesOf(text: string, name: string): string[] {
  return [...text.matchAll(new RegExp(`${name} -- ([^\`\\n]+)`, 'g'))].map(([, line = '']) => line)
}
