import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import type { Host } from '../../src/lab/host.ts'
import { lab } from '../../src/lab/lab.ts'
import { lackingFor } from '../../src/lab/missing-rights.ts'
import type { Program } from '../../src/lab/program.ts'
import { blocksOf, page } from './markdown.ts'
import '../support/no-orphans.ts'
import { LAUNCHER } from '../support/launcher.ts'

/** What the README says to type is typed, as it stands: on one machine, then on several behind NATs. */

t.setTimeout(280_000)
const skip = (await lackingFor('namespaces')) ?? false
const blocks = blocksOf(page('README.md'))
const folder = await mkdtemp(join(tmpdir(), 'hedgerow-readme-'))
t.teardown(() => rm(folder, { recursive: true, force: true }))

/** `hedgerow` and `node` as an installation puts them on the PATH. */
const bin = join(folder, 'bin')
mkdirSync(bin)
writeFileSync(join(bin, 'hedgerow'), `#!/bin/sh\nexec ${process.execPath} ${LAUNCHER} "$@"\n`)
chmodSync(join(bin, 'hedgerow'), 0o755)

t.test('the README is short', async (t) => {
  t.ok(Buffer.byteLength(page('README.md')) <= 8_192, `${Buffer.byteLength(page('README.md'))} bytes`)
})

t.test('examples/hello.yaml is the document of the README', async (t) => {
  const [, document = ''] = /<<'END'\n([^]*?)END\n/.exec(page('README.md')) ?? []
  t.equal(page('examples/hello.yaml').replace(/^#.*\n/, ''), document)
})

t.test('one machine in a minute', { skip }, async (t) => {
  await using net = await lab({ publics: ['server'] })
  const machine = new Machine(net.host('server'), 'one')
  const [up = '', deploy = '', call = '', ...others] = sh('One machine in a minute')
  t.same(others, [])
  const printed = await machine.role(up)
  await machine.type(t, deploy)
  await machine.allRun(2)
  const [answer = ''] = (await machine.type(t, call)).split('\n')
  t.match(answer, /^hello from hello\.demo\.greeter\.demo\.[01] on edge\//)

  const lines = printed.lines.join('\n')
  const [dig = ''] = /dig \+short @.*/.exec(lines) ?? []
  t.match((await machine.type(t, `${dig}\n`)).trim(), /^127\.\d+\.\d+\.\d+$/, 'the dig command that `up` prints')
  const [exec = ''] = /hedgerow with-proxy -- curl .*/.exec(lines) ?? []
  t.match(await machine.type(t, `${exec}\n`), /^hello from /, 'the curl command that `up` prints')
})

t.test('several machines', { skip }, async (t) => {
  await using net = await lab({ publics: ['server'], sites: { left: { hosts: ['a'] } } })
  const server = new Machine(net.host('server'), 'server')
  const n1 = new Machine(net.host('a'), 'n1')
  const [up = '', token = '', agent = '', deploy = '', call = '', ...others] = sh('Several machines')
  t.same(others, [])
  await server.role(up)
  await server.type(t, token) // all machines share the folder: that is the copying
  await n1.role(agent)
  await server.type(t, deploy)
  await server.allRun(2)
  const nodes = (await server.json<Array<{ node: string }>>('get', 'instances')).map(({ node }) => node)
  t.same(nodes.toSorted(), ['edge/n1', 'edge/server'], 'one instance on each node')
  const answers = await n1.type(t, call)
  t.match(answers, /on edge\/n1$/m)
  t.match(answers, /on edge\/server$/m, 'across the NAT')
  t.match(answers, /^NODE[^]*edge\/server +direct/m, 'peers shows the path')
  const metrics = await net.host('a').exec(['curl', '-s', '-m', '2', 'http://203.0.113.10:7480/metrics'])
  t.equal(metrics.code, 7, 'health and metrics are on loopback alone')
})

/** The commands of a section, block by block. */
function sh(section: string): string[] {
  return blocks.filter((block) => block.section === section && block.syntax === 'sh').map(({ text }) => text)
}

class Machine {
  readonly #host: Host
  readonly #env: NodeJS.ProcessEnv

  constructor(host: Host, state: string) {
    this.#host = host
    this.#env = {
      PATH: [bin, dirname(process.execPath), process.env['PATH']].join(delimiter),
      HEDGEROW_STATE: join(folder, state),
      HEDGEROW_TOKEN: undefined,
      HEDGEROW_CREDENTIAL: undefined,
    }
  }

  /** Types a block; what it prints. */
  async type(t: Test, commands: string): Promise<string> {
    const options = { env: this.#env, cwd: folder, timeoutMs: 60_000 }
    const { code, stdout, stderr } = await this.#host.exec(['bash', '-euc', commands], options)
    t.equal(code, 0, commands)
    if (code !== 0) t.comment(stderr, stdout)
    return stdout
  }

  /** A block whose last command goes on; until it prints that it is ready. */
  async role(commands: string): Promise<Program> {
    const ready = Promise.withResolvers<void>()
    const program = this.#host.spawn(['bash', '-euc', commands], {
      env: this.#env,
      cwd: folder,
      onLine: (line) => {
        if (/^HEDGEROW +READY/.test(line)) ready.resolve()
      },
    })
    void program.exited.then((how) =>
      ready.reject(new Error(`${commands} ended (${how}): ${program.lines.join('\n')}`)),
    )
    await ready.promise
    return program
  }

  async json<T>(...args: string[]): Promise<T> {
    const argv = ['hedgerow', ...args, '-o', 'json']
    return JSON.parse(await this.#host.text(argv, { env: this.#env, cwd: folder, timeoutMs: 30_000 })) as T
  }

  async allRun(count: number): Promise<void> {
    for (const endAt = Date.now() + 60_000; Date.now() < endAt; ) {
      const instances = await this.json<Array<{ state: string }>>('get', 'instances')
      if (instances.filter(({ state }) => state === 'running').length === count) return
    }
    throw new Error('the instances do not run')
  }
}
