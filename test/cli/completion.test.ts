import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { manPages } from '../../.config/docs/man.ts'
import { completionOf } from '../../src/cli/completion/candidates.ts'
import { SCRIPTS } from '../../src/cli/completion/scripts.ts'
import { FORMATS } from '../../src/cli/output.ts'
import { programOf } from '../../src/cli/program.ts'
import { LAUNCHER } from '../support/launcher.ts'

/** What Tab offers, and the man pages: from the commands themselves. */

const program = programOf('0.0.0', () => {
  throw new Error('no command runs here')
})

const KINDS = 'apps services instances runs nodes clusters relays links volumes'

t.test('what may stand at the cursor', async (t) => {
  const rows = [
    { line: 'ge', words: 'get' },
    { line: 'token ', words: 'create help' },
    { line: 'get ', words: KINDS },
    { line: 'get n', words: 'nodes' },
    { line: 'get nodes ', names: ['nodes'] },
    { line: 'get service ', names: ['services'], why: 'in singular too' },
    { line: 'get links ', names: ['nodes'], why: 'links are listed by the nodes at their ends' },
    { line: 'get link ', names: ['nodes'] },
    { line: 'get nodes edge/n1 ', why: 'nothing comes behind the last argument' },
    { line: 'delete cluster ', names: ['clusters'] },
    { line: 'scale ', names: ['services'] },
    { line: 'scale shop.acme.cart.prod ' },
    { line: 'restart ', names: ['services', 'instances'] },
    { line: 'migrate a.b.c.d.0 --to ', names: ['nodes'] },
    { line: 'get nodes -o ', words: FORMATS.join(' ') },
    { line: '--output j', words: 'json' },
    { line: '-o json get nod', words: 'nodes', why: 'options may stand before the command' },
    { line: '--state=/x get nod', words: 'nodes' },
    { line: 'apply --file ', files: true },
    { line: '--state ', files: true },
    { line: 'apply --pr', words: '--prune' },
    { line: 'agent --port-mapping ', words: 'auto off' },
    { line: 'lab up --backend ', words: 'namespaces docker' },
    { line: 'exec ', names: ['instances'] },
    { line: 'exec a.b.c.d.0 -- cur', files: true, why: 'another program' },
    { line: 'with-proxy -- cur', files: true },
    { line: 'with-proxy curl -', files: true },
    { line: 'completion ', words: 'bash zsh fish' },
    { line: 'nonsense ' },
    { line: '__' },
  ]
  for (const { line, words = '', names = [], files = false, why = '' } of rows) {
    const found = completionOf(program, line.split(' '))
    const got = { words: found.candidates.map(({ word }) => word).join(' '), names: found.names, files: found.files }
    t.same(got, { words, names, files }, `${line}| ${why}`)
  }
  const { candidates } = completionOf(program, [''])
  t.equal(candidates.length, program.commands.filter((one) => !one.name().startsWith('__')).length + 1, 'every command')
  t.ok(candidates.every(({ about }) => about !== ''))
})

t.test('bash completes, as in a terminal', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'hedgerow-completion-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  mkdirSync(join(folder, 'a-folder'))
  const hedgerow = `#!/bin/sh\n[ "$1" = __complete ] || { printf 'ran:'; printf ' <%s>' "$@"; echo; exit; }\nexec ${process.execPath} ${LAUNCHER} "$@"\n`
  writeFileSync(join(folder, 'hedgerow'), hedgerow)
  chmodSync(join(folder, 'hedgerow'), 0o755)
  writeFileSync(join(folder, 'completion'), SCRIPTS.bash)
  const typed = ['. ./completion', 'hedgerow sca\tx', 'hedgerow get nod\t', 'hedgerow apply -f a-f\t', 'exit', ''].join(
    '\n',
  )
  const { stdout } = spawnSync('script', ['-qec', 'bash --norc --noprofile -i', '/dev/null'], {
    cwd: folder,
    input: typed,
    encoding: 'utf8',
    timeout: 30_000,
    env: {
      ...process.env,
      PATH: `${folder}${delimiter}${process.env['PATH'] ?? ''}`,
      HEDGEROW_STATE: folder,
      TERM: 'dumb',
      INPUTRC: '/dev/null',
    },
  })
  t.match(stdout, /ran: <scale> <x>/, 'a command')
  t.match(stdout, /ran: <get> <nodes>/, 'a kind')
  t.match(stdout, /ran: <apply> <-f> <a-folder\/>/, 'a file')
})

t.test('each command has a man page that troff takes without a warning', async (t) => {
  const pages = manPages()
  const names = Object.keys(pages)
  t.ok(names.includes('hedgerow.1') && names.includes('hedgerow-token-create.1') && names.length > 35)
  for (const [name, page] of Object.entries(pages)) {
    // eslint-disable-next-line no-control-regex
    t.notMatch(page, /[^\u0000-\u007f]/, `${name} is ASCII`)
    t.notMatch(page, /`|\\-\\-\\-|undefined/, name)
    for (const part of ['NAME', 'SYNOPSIS', 'DESCRIPTION', 'OPTIONS', 'SEE ALSO'])
      t.match(page, `.SH ${part}\n`, `${name}: ${part}`)
  }
  const hasTroff = spawnSync('groff', ['--version']).status === 0
  await t.test('troff', { skip: hasTroff ? false : 'optional: groff is not installed' }, async (t) => {
    const all = Object.values(pages).join('')
    const { status, stderr } = spawnSync('groff', ['-man', '-ww', '-z'], { input: all, encoding: 'utf8' })
    t.same({ status, stderr }, { status: 0, stderr: '' })
  })
})
