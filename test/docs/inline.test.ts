import { readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import t from 'tap'
import type { Command, CommanderError } from 'commander'
import { kindOf } from '../../src/cli/kinds.ts'
import { programOf } from '../../src/cli/program.ts'
import { run } from '../../src/lab/program.ts'
import { hasTool } from '../../src/lab/system-tools.ts'
import { blocksOf, page, ROOT } from './markdown.ts'
import '../support/no-orphans.ts'

/*
 * Commands in running text, `like this`, and the lines of blocks: those of hedgerow go through its own parser, those of npm through
 * package.json and the scripts' --help, those of other programs through the programs.
 */

const PAGES = ['README.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md']
  .concat(readdirSync(resolve(ROOT, 'docs')).map((name) => `docs/${name}`))
  .filter((path) => path.endsWith('.md'))

const PROGRAMS =
  /^(?:apt-get|command|conntrack|curl|dig|docker|getent|git|hedgerow|ip|iptables|journalctl|kill|nft|node|npm|npx|ping|podman|ss|sysctl|systemctl|systemd-\w+|tc|unshare) \S/

t.setTimeout(280_000)
/** Of a program that only says its help: many start at once. */
const SLOW = { timeoutMs: 60_000 }

/** Begin like commands. */
const NONE = ['node not connected here', 'tc netem']

interface Line {
  path: string
  line: string
}

const inline: readonly Line[] = PAGES.flatMap((path) =>
  textOf(page(path))
    .filter((span) => PROGRAMS.test(span) && !NONE.includes(span))
    .map((line) => ({ path, line })),
)
const typed: readonly Line[] = PAGES.flatMap((path) =>
  blocksOf(page(path))
    .filter(({ syntax }) => syntax === 'sh')
    .flatMap(({ text }) => text.split('\n'))
    .flatMap((line) => [...line.matchAll(/(?:^|\$\(|&& )((?:hedgerow|npm) [^|>&;#)]+)/g)])
    .map(([, line = '']) => ({ path, line: line.trim() })),
)
const lines = [...inline, ...typed]

t.test('hedgerow takes every command of the pages, with its options and arguments', async (t) => {
  const own = lines.filter(({ line }) => line.startsWith('hedgerow '))
  t.ok(own.length >= 60, `${own.length} were found`)
  for (const { path, line } of own) t.equal(faultOf(line.split(/\s+/).slice(1)), undefined, `${path}: ${line}`)
})

t.test('the check of hedgerow’s commands finds what is wrong', async (t) => {
  const rows = [
    { line: 'gett nodes', why: 'no such command' },
    { line: 'get nodez', why: 'no such kind' },
    { line: 'logs INSTANCE --lines 5', why: 'no such option' },
    { line: 'status now', why: 'an argument too many' },
    { line: 'logs -n', why: 'an option without its value' },
  ]
  for (const { line, why } of rows) t.ok(faultOf(line.split(' ')), `${line}: ${why}`)
  t.equal(faultOf(['logs']), undefined, 'a command that is only mentioned needs no arguments')
})

t.test('npm has every script of the pages, and the script has its options', async (t) => {
  const { scripts } = JSON.parse(page('package.json')) as { scripts: Record<string, string> }
  for (const line of new Set(lines.map((each) => each.line).filter((each) => /^npm (?:run|test)\b/.test(each)))) {
    const [, name = '', rest = ''] = /^npm (?:run )?(\S+)(?: -- (.*))?$/.exec(line) ?? []
    const file = / (\S+\.ts)(?: |$)/.exec(scripts[name] ?? '')?.[1]
    t.ok(name in scripts, line)
    if (name === 'hedgerow' || file === undefined) continue
    const { code, stdout, stderr } = await run(
      [process.execPath, resolve(ROOT, file), ...valuesFor(rest), '--help'],
      SLOW,
    )
    t.match({ code, stderr }, { code: 0, stderr: '' }, line)
    for (const [option] of rest.matchAll(/--[\w-]+/g)) t.match(stdout, `  ${option}`, line)
  }
})

t.test('every option that the text mentions exists', async (t) => {
  const known = new Set([...optionsOf(program()), ...(await scriptOptions()), ...FOREIGN])
  for (const path of PAGES.filter((path) => path !== 'CHANGELOG.md')) {
    for (const span of textOf(page(path)).filter((text) => /^--[a-z]/.test(text)))
      t.ok(known.has(/^--[\w-]+/.exec(span)?.[0] ?? ''), `${path}: ${span}`)
  }
})

/** Options of other programs. */
const FOREIGN = ['--user', '--expose-gc', '--max-old-space-size', '--enable-feature']

/**
 * Of other programs: what to run so that it shows that the program takes it, as a shell would. `{}` is the command itself; none of them
 * changes anything here.
 */
const OTHERS: Record<string, { run: string; prints?: RegExp; code?: number; needs?: string }> = {
  'command -v hedgerow': { run: 'hedgerow() { :; }; {}', prints: /^hedgerow$/m },
  'docker build -t hedgerow .': { run: 'docker build --help', prints: /-t, --tag/, needs: 'docker' },
  'docker network rm hedgerow-…': { run: 'docker network --help', prints: /^ +rm /m, needs: 'docker' },
  'docker run': { run: '{} --help', prints: /-m, --memory/, needs: 'docker' },
  'docker exec NAME hedgerow status': { run: 'docker exec --help', prints: /CONTAINER COMMAND/, needs: 'docker' },
  'journalctl -u hedgerow-agent': { run: 'journalctl --help', prints: /-u --unit=/, needs: 'journalctl' },
  'journalctl -u hedgerow-agent -p err': { run: 'journalctl --help', prints: /-p --priority=/, needs: 'journalctl' },
  'kill -9': { run: 'sleep 60 & {} $!; wait $!', code: 137 },
  'kill -STOP': { run: 'sleep 60 & {} $!; sleep 0.1; cut -d" " -f3 /proc/$!/stat; kill -9 $!', prints: /^T$/m },
  'npm ci': { run: '{} --help', prints: /Clean install/ },
  'npm ci && npm run demo': { run: 'npm ci --help', prints: /Clean install/ },
  'npm cit': { run: '{} --help', prints: /and run tests/ },
  'npm install --global': { run: 'npm install --help', prints: /--global/ },
  'npm uninstall --global hedgerow': { run: 'npm uninstall --help', prints: /Remove a package/ },
  'sysctl net.ipv4.ip_unprivileged_port_start': { run: '{}', prints: /= \d+$/m, needs: 'sysctl' },
  'sysctl net.ipv6.conf.all.forwarding=1': {
    run: 'sysctl net.ipv6.conf.all.forwarding',
    prints: /= \d+$/m,
    needs: 'sysctl',
  },
  'systemctl kill': { run: 'systemctl --help', prints: /^ +kill UNIT/m, needs: 'systemctl' },
  'systemctl kill hedgerow-agent': { run: 'systemctl --help', prints: /^ +kill UNIT/m, needs: 'systemctl' },
  'systemctl reload': { run: 'systemctl --help', prints: /^ +reload UNIT/m, needs: 'systemctl' },
  'systemctl restart hedgerow-agent': { run: 'systemctl --help', prints: /^ +restart UNIT/m, needs: 'systemctl' },
  'node .config/node24.cjs test/flood/open-flood.ts': { run: '{} --help', prints: /^Usage: / },
  'systemctl stop hedgerow-agent': { run: 'systemctl --help', prints: /^ +stop UNIT/m, needs: 'systemctl' },
}

t.test('every command of another program in the text is listed', async (t) => {
  const others = inline.filter(({ line }) => !/^(?:hedgerow |npm run |npm test\b)/.test(line)).map(({ line }) => line)
  t.same([...new Set(others)].toSorted(), Object.keys(OTHERS).toSorted())
})

for (const [line, { run: script, prints, code = 0, needs }] of Object.entries(OTHERS)) {
  const skip = needs === undefined || hasTool(needs) ? false : `optional: ${needs} is not installed`
  t.test(`${line} is taken by its program`, { skip }, async (t) => {
    const ended = await run(['bash', '-c', script.replace('{}', line)], { cwd: ROOT })
    t.equal(ended.code, code, ended.stderr)
    if (prints !== undefined) t.match(ended.stdout, prints)
  })
}

/** Code in running text: blocks are left out. */
function textOf(markdown: string): string[] {
  const text = markdown.replace(/^```[^]*?^```$/gm, '')
  return [...text.matchAll(/`([^`\n]+)`/g)].map(([, span = '']) => span)
}

/** All commands as they are, except that nothing happens. */
function program(): Command {
  const made = programOf(
    '0.0.0',
    () => {
      throw new Error('no command runs here')
    },
    { writeErr: () => undefined },
  )
  const quiet = (command: Command): void => {
    command.exitOverride().configureOutput({ writeOut: () => undefined, writeErr: () => undefined })
    const [kind] = command.registeredArguments
    if (command.commands.length === 0)
      command.action((given) => void (kind?.name() === 'kind' && kindOf(String(given), kind.description.split(', '))))
    for (const each of command.commands) quiet(each)
  }
  quiet(made)
  return made
}

/** What the parser says against a command; nothing where it is only mentioned, without its arguments or with `…` for them. */
function faultOf(words: readonly string[]): string | undefined {
  if (words.length === 1 && words[0] === '…') return undefined
  if (words[0] === 'COMMAND') return undefined
  try {
    program().parse(
      words.filter((word) => word !== '…'),
      { from: 'user' },
    )
    return undefined
  } catch (error) {
    const { code, message } = error as CommanderError
    const isBare = code === 'commander.missingMandatoryOptionValue' && !words.some((word) => word.startsWith('-'))
    const isMentioned = isBare || code === 'commander.missingArgument' || code === 'commander.help'
    return isMentioned || code === 'commander.helpDisplayed' || code === 'commander.version' ? undefined : message
  }
}

function optionsOf(command: Command): string[] {
  const own = command.options.flatMap(({ long }) => (long == null ? [] : [long]))
  return [...own, '--help', ...command.commands.flatMap(optionsOf)]
}

async function scriptOptions(): Promise<string[]> {
  const files = [...page('package.json').matchAll(/(test\/\S+\.ts)"/g)]
  const helps = await Promise.all(
    files.map(([, file = '']) => run([process.execPath, resolve(ROOT, file), '--help'], SLOW)),
  )
  return helps.flatMap(({ stdout }) => [...stdout.matchAll(/^ {2}(--[\w-]+)/gm)].map(([, option = '']) => option))
}

/** `N` stands for a number. */
function valuesFor(rest: string): string[] {
  return rest
    .split(' ')
    .filter((word) => word !== '' && word !== '…' && word !== 'COMMAND')
    .map((word) => (word === 'N' ? '1' : word))
}
