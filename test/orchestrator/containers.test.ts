import { spawnSync } from 'node:child_process'
import { mkdtempSync, openSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { runtimeContract } from '../contracts/runtime.ts'
import { Engine, lackingEngine } from '../docker-engine.ts'
import { run, text } from '../../src/lab/program.ts'
import { freePort } from '../../src/lab/system-tools.ts'
import { explain } from '../../src/core/errors.ts'
import { defaults } from '../../src/config/defaults.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { DockerRuntime } from '../../src/orchestrator/worker/docker/docker-runtime.ts'
import { PulledImages } from '../../src/orchestrator/worker/docker/pulled-images.ts'
import { Engine as EngineClient } from '../../src/orchestrator/worker/docker/engine.ts'
import { ContainerGuard } from '../../src/orchestrator/worker/docker/container-guard.ts'
import { systemNft } from '../../proxy/intercept/nft.ts'
import { SecretFiles } from '../../src/orchestrator/worker/secret-files.ts'
import type { Running, Trace } from '../../src/orchestrator/worker/runtime.ts'
import { wholeMesh, type Mesh } from '../walks/mesh.ts'
import { forgeries } from './container-forgeries.ts'
import { LISTED_PORT, machineOutside, namesOutside, OTHER_PORT, OUTSIDE, THIS_MACHINE } from './container-outside.ts'
import { assignmentOf, factsOf } from './specs.ts'
import { nodeWith } from './worker-node.ts'
import '../support/no-orphans.ts'
import { until } from '../support/until.ts'

/*
 * Containers of a real engine. It, the agent and the bridge between containers are in a network namespace that this file makes for itself,
 * so that nothing is sent from the machine to an address of a container.
 */
const INSIDE = 'HEDGEROW_TEST_CONTAINERS'
/** podman.test.ts sets it. */
const kind = process.env['HEDGEROW_TEST_ENGINE'] === 'podman' ? 'podman' : 'docker'
const skip = lackingEngine(kind) ?? false
if (skip === false && process.env[INSIDE] === undefined) {
  const argv = ['--net', process.execPath, import.meta.filename]
  process.exit(spawnSync('unshare', argv, { stdio: 'inherit', env: { ...process.env, [INSIDE]: '1' } }).status ?? 1)
}

const NOWHERE = { readJson: () => undefined, put: async () => undefined }
const IMAGE = 'busy:1'
t.setTimeout(280_000)
let engine: Engine | undefined
if (skip !== false) t.test('containers', { skip }, () => Promise.resolve())
else {
  await text(['ip', 'link', 'set', 'lo', 'up'])
  const started = await Engine.start(kind)
  engine = started
  t.teardown(() => started[Symbol.asyncDispose]())
  await engine.busybox(IMAGE, 'ENTRYPOINT ["/busybox"]', 'CMD ["httpd", "-f", "-p", "80"]', 'ENV FROM_IMAGE=kept')
  withEngine(started)
}

function withEngine(engine: Engine): void {
  const runtimeFor = async (
    agent: string,
    more: { resolvConf?: string; allowsPrivileged?: boolean; hostPaths?: string[] } = {},
  ) => {
    const guard = new ContainerGuard({
      name: `hedgerow_${agent}`,
      bridge: `br-h${agent}`,
      vips4: '10.30.0.0/16',
      vips6: undefined,
      apply: (rules) => systemNft.apply(rules),
      log: silentLog,
    })
    await guard.open()
    const runtime = new DockerRuntime({
      node: 'edge/n1',
      engine: { setting: engine.path, environment: {}, uid: 0 },
      network: { agent: `hedgerow-${agent}`, bridge: `br-h${agent}`, subnet: 'auto', avoids: [] },
      guard,
      images: new PulledImages({ record: NOWHERE, keepMs: 0, log: silentLog }),
      hostPorts: '1024-65535',
      hostPaths: [],
      allowsPrivileged: false,
      resolvConf: undefined,
      seesVips: true,
      secretFiles: new SecretFiles(`/tmp/${agent}`, 'containers'),
      log: silentLog,
      ...more,
    })
    await runtime.refresh()
    return runtime
  }

  /** Runs services of the image, and ends what is left of them. */
  class World implements AsyncDisposable {
    readonly runtime: DockerRuntime
    readonly dir = mkdtempSync(join(tmpdir(), 'hedgerow-containers-'))
    readonly traces: Trace[] = []
    readonly #running: Running[] = []

    constructor(runtime: DockerRuntime) {
      this.runtime = runtime
    }

    said(): string {
      return readFileSync(join(this.dir, 'output'), 'utf8')
    }

    launchOf(service: Record<string, unknown>) {
      return {
        assignment: assignmentOf({ runtime: 'docker', code: IMAGE, cmd: [], ...service }),
        endpoints: {},
        environment: {},
        output: async () => openSync(join(this.dir, 'output'), 'a'),
        secrets: async () => [],
        onTrace: (trace: Trace) => void this.traces.push(trace),
        mayStart: () => Promise.resolve(),
        signal: new AbortController().signal,
      }
    }

    async launch(service: Record<string, unknown>): Promise<Running> {
      const running = await this.runtime.launch(this.launchOf(service))
      this.#running.push(running)
      return running
    }

    container(): string {
      return String(this.traces.at(-1)?.['container'])
    }

    inspect(format: string): Promise<string> {
      return this.inspectOf(this.container(), format)
    }

    async inspectOf(what: string, format: string): Promise<string> {
      return (await text(['docker', 'inspect', '--format', format, what])).trim()
    }

    async [Symbol.asyncDispose]() {
      await Promise.all(this.#running.map((each) => each.stop(0)))
      rmSync(this.dir, { recursive: true })
    }
  }

  runtimeContract(kind, async () => {
    return {
      runtime: await runtimeFor('contract'),
      server: assignmentOf({ runtime: 'docker', code: IMAGE, cmd: [], port: 80 }),
      impossible: assignmentOf({ runtime: 'docker', code: 'nowhere/to-be-found:1', pull: 'never' }),
      output: async () => openSync('/dev/null', 'w'),
      ownsIt: true,
      shell: ['/busybox', 'sh', '-c'],
      async [Symbol.asyncDispose]() {},
    }
  })

  t.test('a container is what its document and its image say', async (t) => {
    await using world = new World(await runtimeFor('says'))
    const script = '/busybox env; echo files $(ulimit -n); /busybox pwd; exec /busybox sleep 600'
    const running = await world.launch({
      cmd: ['sh', '-c', script],
      environment: ['MINE=1'],
      port: '8080:80',
      workdir: '/tmp',
      memory: 32,
      vcpus: 0.5,
      pids: 50,
      ...(kind === 'docker' ? { open_files: 2_000 } : {}), // Podman raises its other limits with it, which takes CAP_SYS_RESOURCE
    })
    const config =
      '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.CapDrop}} {{.Config.Entrypoint}}'
    t.equal(await world.inspect(config), '33554432 33554432 500000000 50 [NET_RAW] [/busybox]')
    await until(() => world.said().endsWith('\n/tmp\n'), 'all of it')
    const said = world.said().trim().split('\n')
    const expected = [
      'FROM_IMAGE=kept',
      'MINE=1',
      'HEDGEROW_INSTANCE=shop.acme.cart.prod.0',
      'HEDGEROW_PORT_8080=80',
      'PORT=80',
      ...(kind === 'docker' ? ['files 2000'] : []),
    ]
    for (const line of expected) t.ok(said.includes(line), line)
    t.equal(said.at(-1), '/tmp', 'where it runs')
    t.match(running.endpoints, { 'tcp/8080': { port: 80, seesVips: true } })
    t.match(await world.inspect('{{.Name}}'), /^\/hedgerow-shop\.acme\.cart\.prod\.0-[0-9a-f]{8}$/, 'for people')
  })

  t.test('how it ended is told: its code, a signal, its memory', async (t) => {
    await using world = new World(await runtimeFor('ends'))
    const forked = `6001.${process.pid}` // the same test with the other engine may run beside this one
    const [seven, memory, deaf] = await Promise.all([
      world.launch({ cmd: ['sh', '-c', 'exit 7'] }),
      world.launch({ cmd: ['tail', '/dev/zero'], memory: 16 }),
      world.launch({ cmd: ['sh', '-c', `/busybox sleep ${forked} & exec /busybox sleep 6000`] }),
    ])
    t.match(await seven.ended, { code: 7, detail: 'exited with code 7' })
    const killed = await memory.ended
    t.match(killed, { code: 137, detail: /out of memory \(its limit is 16 MB\)/ })
    // Podman 4 does not say what ended it
    if (kind === 'docker') t.match(killed, { detail: /^killed: out of memory/, usage: { oomKills: 1 } })
    await deaf.stop(0)
    t.match(await deaf.ended, { code: 137, detail: 'exited with code 137 (SIGKILL)' }, 'it does not end for SIGTERM')
    t.equal((await run(['pgrep', '-f', `/busybox sleep ${forked}`])).code, 1, 'and what it had forked has ended')
    t.equal(
      (await run(['docker', 'ps', '--all', '--quiet', '--filter', 'label=hedgerow.agent=hedgerow-ends'])).stdout,
      '',
    )
  })

  t.test('what an agent leaves goes on, and the next one reads on and ends it', async (t) => {
    await using world = new World(await runtimeFor('next'))
    const first = await world.runtime.launch(
      world.launchOf({ cmd: ['sh', '-c', 'i=0; while :; do echo line $i; i=$((i+1)); /busybox sleep 0.1; done'] }),
    )
    await until(() => world.said().includes('line 1\n'))
    first.letGo()
    const trace = world.traces.at(-1) as Trace
    const stray = await world.runtime.launch(world.launchOf({ cmd: ['sleep', '600'] }))
    stray.letGo() // its record is lost

    const next = new World(await runtimeFor('next'))
    await next.runtime.tidy([trace])
    t.equal(
      await next.runtime.adopt(next.launchOf({}), world.traces.at(-1) as Trace),
      undefined,
      'what no record names is gone',
    )
    const adopted = await next.runtime.adopt(next.launchOf({}), trace)
    if (adopted === undefined) throw new Error('it was not adopted')
    await until(() => next.said().split('\n').length > 4)
    const lines = `${world.said()}${next.said()}`.trim().split('\n')
    t.same(
      lines,
      lines.map((_, i) => `line ${i}`),
      'no line is missing, none is there twice',
    )
    const networks = () =>
      text(['docker', 'network', 'ls', '--quiet', '--filter', 'label=hedgerow.agent=hedgerow-next'])
    await next.runtime.close()
    t.not(await networks(), '', 'while a container is on it, the network stays')
    await adopted.stop(0)
    await next.runtime.close()
    t.equal(await networks(), '', 'and goes with the agent')
    rmSync(next.dir, { recursive: true })
  })

  t.test('volumes outlive containers; folders of the machine are given where the operator allows it', async (t) => {
    const hostPaths = [mkdtempSync(join(tmpdir(), 'hedgerow-volumes-'))]
    const [shared = ''] = hostPaths
    t.teardown(() => rmSync(shared, { recursive: true }))
    symlinkSync('/etc', join(shared, 'out'))
    await using world = new World(await runtimeFor('volumes', { hostPaths }))
    const data = { volume_id: 'data', mount_path: '/data' }
    const host = { volume_id: 'host', mount_path: '/host', host_path: shared, read_only: true }
    const script = (line: string) => ({ cmd: ['sh', '-c', line], volumes: [data, host] })
    t.match(await (await world.launch(script('echo kept > /data/a; echo no > /host/a'))).ended, { code: 1 })
    t.same(readdirSync(shared), ['out'], 'what is read-only is')
    t.match(await (await world.launch(script('read x < /data/a; exit $((${#x} + 40))'))).ended, { code: 44 })
    const volumes = ['docker', 'volume', 'ls', '--quiet', '--filter', 'label=hedgerow.volume=shop.acme.data']
    t.match(await text(volumes), /^hedgerow-volumes-shop\.acme\.data\n$/, 'its operator finds it')
    const kept = world.runtime.volumes
    t.same(await kept.list(), ['shop.acme.data'], 'and whoever asks the agent')
    const sizes = await kept.sizes(['shop.acme.data'], AbortSignal.timeout(30_000))
    t.ok((sizes.get('shop.acme.data') ?? 0) > 0, 'with its size')
    await world.launch({ cmd: ['sleep', '600'], volumes: [data] })
    const remove = () => kept.remove('shop.acme.data', () => undefined)
    await t.rejects(remove(), { code: 'VOLUME_IN_USE' }, 'the engine keeps what a container has')
    const refused = (host_path: string) =>
      world.launch({ cmd: ['true'], volumes: [{ ...host, host_path }] }).catch(explain)
    const rule = 'not allowed on this node (agent.containers.hostPaths'
    t.match(await refused(`${shared}-other`), `is ${rule} is ${shared})`)
    t.match(await refused(join(shared, 'out')), `it leads to /etc, which is ${rule})`)
    t.match(await refused(join(shared, 'none')), 'no such file')
  })

  if (kind === 'podman') return // what follows is the same in every engine, or Podman cannot import it
  t.test('the health check of the image', async (t) => {
    await engine.busybox(
      'healthy:1',
      'ENTRYPOINT ["/busybox"]',
      'HEALTHCHECK --interval=0.1s --retries=1 CMD ["/busybox", "test", "-e", "/ready"]',
    )
    await using world = new World(await runtimeFor('health'))
    const running = await world.launch({ code: 'healthy:1', cmd: ['sleep', '600'] })
    await until(async () => /fails/.test((await running.check?.()) ?? ''))
    await text(['docker', 'exec', world.container(), '/busybox', 'touch', '/ready'])
    await until(async () => (await running.check?.()) === undefined)
    t.pass('it is followed')
    const other = await world.launch({ cmd: ['sleep', '600'] })
    t.equal(other.check, undefined, 'an image without one leaves it to the document')

    const [client, keepMs] = [await EngineClient.connect(engine.path, 2_000), 50]
    const isThere = async () => (await run(['docker', 'image', 'inspect', 'healthy:1'])).code === 0
    const id = await world.inspectOf('healthy:1', '{{.Id}}')
    const images = new PulledImages({ record: NOWHERE, keepMs, log: silentLog })
    images.used({ id, reference: 'healthy:1', isNew: true }, 0)
    await images.sweep(client, 100)
    t.ok(await isThere(), 'an image stays while a container has use for it')
    await running.stop(0)
    await images.sweep(client, 200)
    t.notOk(await isThere(), 'and no longer')
  })

  t.test('one that wants more than its memory is started again, and its neighbour stays', async (t) => {
    await using world = new World(await runtimeFor('hungry'))
    const neighbour = await world.launch({ cmd: ['sleep', '600'], memory: 64 })
    await using node = await nodeWith({ runtimes: [world.runtime], facts: factsOf({ runtimes: ['docker'] }) })
    const takes500MB = ['dd', 'if=/dev/zero', 'of=/dev/null', 'bs=500M']
    node.worker.assign(assignmentOf({ runtime: 'docker', code: IMAGE, cmd: takes500MB, port: '', memory: 64 }))
    const again = await node.hears(({ restarts }) => restarts === 1)
    t.match(again, { state: 'starting', detail: 'killed: out of memory (its limit is 64 MB)' })
    t.ok(((await node.metrics.oomKills.get()).values[0]?.value ?? 0) >= 1, 'counted')
    t.match(await world.inspect('{{.State.Running}} {{.State.OOMKilled}}'), 'true false')
    t.match(await neighbour.usage?.(), { oomKills: 0 })
  })

  t.test('a port of the machine that somebody has', async (t) => {
    await using world = new World(await runtimeFor('ports'))
    const server = createServer().listen(0)
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    const service = { cmd: ['sleep', '600'], ports: [{ port: 80, host_port: port }] }
    t.match(await world.launch(service).catch(explain), /a host_port is taken on this node: .*already in use/)
    await new Promise((resolve) => server.close(resolve))
    await world.launch(service)
    t.pass('and then not any more')
  })

  t.test('what a node does not allow', async (t) => {
    const { runtime } = new World(await runtimeFor('allow'))
    const { spec } = assignmentOf({ runtime: 'docker', code: IMAGE, privileged: true })
    t.match(
      runtime.refuses(spec),
      /privileged containers are not allowed on this node \(agent\.containers\.privileged\)/,
    )
    t.equal((await runtimeFor('allow', { allowsPrivileged: true })).refuses(spec), undefined)
  })
}

/** `agent.containers`, but for the engine. */
const OFFERED = {
  privileged: false,
  subnet: 'auto',
  ipv6: 'auto' as const,
  keepImagesHours: 24,
  hostPorts: '1024-65535',
  hostPaths: [],
}
const NAME = 'shop.acme.cart.prod.any.closest.local'
/** Until it is told to end: process 1 has no other way to hear of that. */
const STAY = 'trap exit TERM; /busybox sleep 600 & wait'
/** A page that says who calls. */
const SERVER = [
  'b=/busybox',
  '$b mkdir -p /www/cgi-bin',
  `printf '#!/busybox sh\\necho; echo $REMOTE_ADDR' > /www/cgi-bin/who`,
  '$b chmod +x /www/cgi-bin/who',
  '$b httpd -p 80 -h /www',
  STAY,
].join('; ')
/** Answers every question over UDP with NXDOMAIN. */
const NAMES = `require('dgram').createSocket('udp4').on('message', function (m, { port, address }) {
  m[2] |= 0x80; m[3] = 3; this.send(m, port, address)
}).bind(process.env.PORT, process.env.HOST)`

t.test('unmodified images call by name, and are called under their own', { skip }, async (t) => {
  const containers = { ...OFFERED, engine: engine?.path ?? '' }
  const config = { mode: 'host', containers, keepInstances: true, instanceUsers: 'agent' } as const
  await using mesh = await wholeMesh(['n1'], config)
  const hostPort = await freePort()
  const service = (name: string, more: object) => ({
    microservice_name: name,
    microservice_namespace: 'prod',
    runtime: 'docker',
    code: IMAGE,
    ...more,
  })
  await mesh.apply(
    [
      service('cart', {
        cmd: ['sh', '-c', SERVER.replaceAll('$', '$$$$')],
        ports: [{ port: 8080, target: 80, host_port: hostPort }],
      }),
      service('front', { cmd: ['sh', '-c', STAY] }),
      service('vault', { cmd: ['sh', '-c', STAY], egress: 'none' }),
      service('names', { runtime: 'process', code: '', cmd: [process.execPath, '-e', NAMES], port: '5300/udp' }),
    ],
    4,
  )
  const list = async () => (await text(['docker', 'ps', '--format', '{{.Names}}'])).trim().split('\n').toSorted()
  const [cart = '', front = '', vault = ''] = await list()
  const inside = (container: string, ...argv: string[]) => run(['docker', 'exec', container, '/busybox', ...argv])
  const inFront = (...argv: string[]) => inside(front, ...argv)
  const call = () => inFront('wget', '-q', '-O', '-', `http://${NAME}:8080/cgi-bin/who`)

  const said = await call()
  const [, caller = ''] = /^\[::ffff:(10\.30\.[\d.]+)\]$/m.exec(said.stdout) ?? []
  t.match(said, { code: 0, stdout: /10\.30\./ }, 'TCP')
  t.same(await mesh.node('n1').dns.reverse(caller), ['shop.acme.front.prod.0.pinned.local'], 'it sees who calls')
  const asked = await inFront('nslookup', '-type=a', 'x', 'shop.acme.names.prod.any.rr.local:5300')
  t.match(`${asked.stdout}${asked.stderr}`, /can't find x.*: NXDOMAIN/, 'UDP')

  const [vip6 = ''] = await mesh.node('n1').dns.resolve6(NAME)
  const over6 = await inFront('wget', '-q', '-O', '-', `http://[${vip6}]:8080/cgi-bin/who`)
  t.match(over6, { code: 0, stdout: `[::ffff:${caller}]` }, 'IPv6, and it is the same caller')

  const address = (
    await text(['docker', 'inspect', '--format', '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}', cart])
  ).trim()
  t.not(
    (await inFront('timeout', '0.3', '/busybox', 'wget', '-q', '-O', '-', `http://${address}/cgi-bin/who`)).code,
    0,
    'and there is no way around',
  )

  const config6 = '{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}'
  const [, cart6 = ''] = (await text(['docker', 'inspect', '--format', config6, cart])).trim().split(' ')
  const [pid = ''] = (await text(['docker', 'inspect', '--format', config6, front])).split(' ')
  const [vip4 = ''] = await mesh.node('n1').dns.resolve4(NAME)
  for (const what of await forgeries({ pid, other: { ipv4: address, ipv6: cart6 }, vip4, vip6 }))
    t.pass(`dropped: ${what}`)

  const outside = await fetch(`http://127.0.0.1:${hostPort}/no-such-page`)
  t.equal(outside.status, 404, 'and from outside the mesh by its host_port')

  // a web server of the machine itself, and a machine behind it
  const [gateway = ''] = (await inFront('ip', 'route')).stdout.match(/(?<=default via )\S+/) ?? []
  await text(['ip', 'address', 'add', '198.51.100.1/32', 'dev', 'lo'])
  const server = createServer((_, response) => response.end('the machine')).listen(0)
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const asks = (container: string, address: string) =>
    inside(container, 'timeout', '2', '/busybox', 'wget', '-q', '-O', '-', `http://${address}:${port}/`)
  for (const address of [gateway, '198.51.100.1']) {
    t.equal((await asks(front, address)).stdout, 'the machine', `${address}: unless the document says otherwise`)
    t.match((await asks(vault, address)).stderr, /refused/, `${address}: not for egress none`)
  }
  t.match(await inside(vault, 'wget', '-q', '-O', '-', `http://${NAME}:8080/cgi-bin/who`), { code: 0 }, 'but services')
  await new Promise((resolve) => server.close(resolve))

  await mesh.stop('n1')
  t.same(await list(), [cart, front, vault].toSorted(), 'they go on without an agent')
  await mesh.start('n1', config)
  await until(async () => (await call()).code === 0)
  t.equal((await call()).stdout, said.stdout, 'the next agent has them')
  const closed =
    /table inet hedgerow_containers_\w+ \{[^]*?set closed \{\s+type ether_addr\s+elements = \{ 02:42:\S+ \}/
  t.match(await text(['nft', 'list', 'ruleset']), closed, 'and the rules for them')
  t.same(await list(), [cart, front, vault].toSorted())

  if (kind === 'docker' && engine !== undefined) await restartedEngine(t, engine, mesh)
  await mesh.control.api.call('DELETE', '/apps/shop.acme')
  await until(async () => (await list()).join() === '')
  await mesh.stop('n1')
  const networks = (await text(['docker', 'network', 'ls', '--format', '{{.Name}}'])).split('\n')
  t.same(
    networks.filter((name) => /^hedgerow-[0-9a-f]{12}$/.test(name)),
    [],
    'nothing is left of an app that is deleted and its agent',
  )
})

/** Docker leaves its containers when it ends, if it is told to. */
async function restartedEngine(t: Test, engine: Engine, mesh: Mesh): Promise<void> {
  const running = () => text(['docker', 'ps', '--quiet', '--no-trunc'])
  const inside = async (name: string) => {
    const container = await text([
      'docker',
      'ps',
      '--quiet',
      '--filter',
      `label=hedgerow.instance=shop.acme.${name}.prod.0`,
    ])
    const pid = await text(['docker', 'inspect', '--format', '{{.State.Pid}}', container.trim()])
    return ['nsenter', '--target', pid.trim(), '--net', '--mount']
  }
  const call = async (from: string[]) =>
    (await run([...from, '/busybox', 'wget', '-q', '-O', '-', `http://${NAME}:8080/cgi-bin/who`])).code

  const [before, containers, front] = [await mesh.control.instances(), await running(), await inside('front')]
  const back = new AbortController()
  const codes = (async () => {
    const seen: number[] = []
    while (!back.signal.aborted) seen.push(await call(front))
    return seen
  })()
  await engine.restart('SIGKILL', { keeps: true })
  back.abort()
  t.same([...new Set(await codes)], [0], 'the engine is killed and started again: calls between containers go on')
  t.equal(await running(), containers, 'all of them run on')
  t.same(await mesh.control.instances(), before, 'none counts as ended or lost')
}

t.test('a container that may call some names calls those, and nothing else', { skip }, async (t) => {
  await using names = await namesOutside()
  await using _web = await machineOutside()
  const containers = { ...OFFERED, engine: engine?.path ?? '' }
  const resolver = { ...defaults('n1').agent.resolver, upstreams: [names.address] }
  const config = { mode: 'host', containers, resolver, keepInstances: true, instanceUsers: 'agent' } as const
  await using mesh = await wholeMesh(['n1'], config)
  const egress = ['api', 'machine'].map((name) => `${name}.example.com:${LISTED_PORT}`)
  const service = (name: string, more: object) => ({
    microservice_name: name,
    microservice_namespace: 'prod',
    runtime: 'docker',
    code: IMAGE,
    cmd: ['sh', '-c', STAY],
    ...more,
  })
  await mesh.apply([service('free', {}), service('listed', { egress }), service('none', { egress: 'none' })], 3)
  const list = async () => (await text(['docker', 'ps', '--format', '{{.Names}}'])).trim().split('\n').toSorted()
  const [free = '', listed = '', none = ''] = await list()
  const call = async (container: string, host: string, port = LISTED_PORT) => {
    const wget = ['timeout', '5', '/busybox', 'wget', '-q', '-O', '-', `http://${host}:${port}/`]
    const { stdout, stderr } = await run(['docker', 'exec', container, '/busybox', ...wget])
    return stdout === '' ? stderr.trim() : stdout
  }

  t.equal(await call(free, 'other.example.com'), 'outside', 'who may call everything does, by name')
  t.match(await call(listed, OUTSIDE), /refused/, 'before it has asked for the name')
  t.match(await call(listed, 'other.example.com'), /refused/, 'another name of the same address opens nothing')
  t.match(await call(none, 'api.example.com'), /refused/, 'nor does the name, for one that does not list it')
  t.match(await call(listed, OUTSIDE), /refused/, 'and what another has asked for is not open for this one')
  t.equal(await call(listed, 'api.example.com'), 'outside', 'a name that it lists')
  t.equal(await call(listed, OUTSIDE), 'outside', 'whose address is open from then on')
  t.match(await call(listed, 'api.example.com', OTHER_PORT), /refused/, 'at the listed port alone')

  await text(['ip', 'address', 'replace', `${THIS_MACHINE}/32`, 'dev', 'lo'])
  const server = createServer((_, response) => response.end('the machine')).listen(LISTED_PORT, THIS_MACHINE)
  await once(server, 'listening')
  t.equal(await call(free, 'machine.example.com'), 'the machine', 'a name of this machine')
  t.match(await call(listed, 'machine.example.com'), /refused/, 'does not open it')
  await new Promise((resolve) => server.close(resolve))

  await mesh.stop('n1')
  await mesh.start('n1', config)
  t.match(await call(listed, OUTSIDE), /refused/, 'the next agent does not know what the last one was asked')
  await until(async () => (await call(listed, 'api.example.com')) === 'outside')
  t.pass('the name is asked for again')
  await mesh.control.api.call('DELETE', '/apps/shop.acme')
  await until(async () => (await list()).join() === '')
})
