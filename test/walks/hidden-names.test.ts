import { existsSync, mkdtempSync, readFileSync, chmodSync, rmSync } from 'node:fs'
import { Resolver } from 'node:dns/promises'
import { join } from 'node:path'
import t from 'tap'
import { noOtherUsers } from '../support/other-users.ts'
import { until } from '../support/until.ts'
import { ask } from '../orchestrator/v1.ts'
import { external, Origin, sla, wholeMesh } from './mesh.ts'

/*
 * Two organisations on one cluster, with instances on one node: what those of the one learn of the names of the other.
 */

t.setTimeout(200_000)

const VAULT = 'shop.acme.vault.prod.any.rr.local'
const OPEN = 'shop.acme.open.prod.any.rr.local'
const MISSING = 'shop.acme.nothing.prod.any.rr.local'

/** Asks for every name and writes what it was told, one line each; argv: name server, port, HTTP proxy or nothing, file, names. */
const ASK = `
  const [server, port, proxy, file, ...names] = process.argv.slice(1)
  const { Resolver } = require('dns').promises
  const resolver = new Resolver({ timeout: 3000, tries: 1 })
  resolver.setServers([server + ':' + port])
  const said = []
  const told = (name, way, asked) => asked.then((found) => said.push([name, way, 'found ' + found]), (error) => said.push([name, way, error.code ?? String(error)]))
  const viaProxy = (name) => new Promise((done, failed) => {
    const { username, password, hostname, port: at } = new URL(process.env.HTTP_PROXY)
    const authorization = 'Basic ' + Buffer.from(decodeURIComponent(username) + ':' + decodeURIComponent(password)).toString('base64')
    const request = require('http').request({ host: hostname, port: at, method: 'CONNECT', path: name + ':8080', headers: { 'proxy-authorization': authorization } })
    request.on('connect', (answer, socket) => { socket.destroy(); done(answer.statusCode) }).on('error', failed).end()
  })
  ;(async () => {
    for (const name of names) {
      if (/^[0-9]/.test(name)) { await told(name, 'PTR', resolver.reverse(name)); continue }
      await told(name, 'A', resolver.resolve4(name))
      await told(name, 'AAAA', resolver.resolve6(name))
      await told(name, 'TXT', resolver.resolveTxt(name))
      await told(name, 'SRV', resolver.resolveSrv('_tcp.' + name))
      if (proxy !== '-') await told(name, 'proxy', viaProxy(name))
    }
    require('fs').writeFileSync(file + '.new', JSON.stringify(said))
    require('fs').renameSync(file + '.new', file)
    setInterval(() => {}, 60000)
  })()`

type Said = [name: string, way: string, told: string][]

for (const instanceUsers of ['separate', 'agent'] as const) {
  t.test(
    `on a shared cluster nobody resolves another organisation’s names (users of instances: ${instanceUsers})`,
    { skip: noOtherUsers },
    async (t) => {
      await using origin = await Origin.start('vault')
      await using mesh = await wholeMesh([])
      const shared = mkdtempSync('/tmp/hedgerow-names-')
      chmodSync(shared, 0o777)
      t.teardown(() => rmSync(shared, { recursive: true, force: true }))
      const here = await mesh.start('here', { instanceUsers, instanceUids: '60300-60331' })
      for (const name of ['acme', 'beta'])
        await ask(mesh.control, '/v1/organisations', { method: 'POST', body: { name } })
      const { resolver } = await here.status()
      const [server = '', port = ''] = resolver.split(':')
      const vault = external('vault', origin, 'here')
      const open = external('open', origin, 'here', { allow: ['site.beta'] })
      await mesh.apply([vault, open], 2)
      const vipOf = async (name: string) => (await here.resolve(name)).ipv4 ?? ''
      const asked = [VAULT, OPEN, MISSING, await vipOf(VAULT), await vipOf(OPEN)]
      t.match(asked[3], /^127\./, 'the operator of the node sees all')

      const asker = (name: string) => {
        const file = join(shared, name)
        const cmd = [process.execPath, '-e', ASK, server, port, 'proxy', file, ...asked]
        return {
          microservice_name: name,
          microservice_namespace: 'prod',
          cmd,
          virtualization: 'process',
          code: '',
          isolation: 'none',
        }
      }
      const told = async (file: string): Promise<Map<string, string>> => {
        await until(() => existsSync(join(shared, file)), `${file} has asked`)
        const said = JSON.parse(readFileSync(join(shared, file), 'utf8')) as Said
        return new Map(said.map(([name, way, what]) => [`${name} ${way}`, what]))
      }
      const document = sla([asker('stranger')], 'site') as { applications: { application_namespace: string }[] }
      for (const application of document.applications) application.application_namespace = 'beta'
      await mesh.control.api.call('POST', '/apps', document)
      await mesh.apply([vault, open, asker('own')], 4)

      const own = await told('own')
      t.match(own.get(`${VAULT} A`), /^found 127\./, 'its own app resolves it')
      t.match(own.get(`${VAULT} proxy`), 'found 200')
      t.equal(own.get(`${asked[3]} PTR`), `found ${VAULT}`)
      t.equal(own.get(`${MISSING} A`), 'ENOTFOUND')

      const stranger = await told('stranger')
      for (const way of ['A', 'AAAA', 'TXT', 'SRV'])
        t.equal(stranger.get(`${VAULT} ${way}`), stranger.get(`${MISSING} ${way}`), `${way}, as of what is not there`)
      t.equal(stranger.get(`${VAULT} A`), 'ENOTFOUND')
      t.equal(stranger.get(`${VAULT} proxy`), stranger.get(`${MISSING} proxy`), 'by the proxy too')
      t.equal(stranger.get(`${asked[3]} PTR`), 'ENOTFOUND', 'its address tells nothing')
      t.match(stranger.get(`${OPEN} A`), /^found 127\./, 'what allows it is seen')
      t.equal(stranger.get(`${asked[4]} PTR`), `found ${OPEN}`)
      t.match(stranger.get(`${OPEN} proxy`), 'found 200')

      const program = new Resolver({ timeout: 3_000, tries: 1 })
      program.setServers([resolver])
      await t.rejects(
        program.resolve4(VAULT),
        { code: 'ENOTFOUND' },
        'a program of the node is not of its organisation',
      )
      await t.rejects(
        program.resolve4('acme.vault.prod.any.rr.local'),
        { code: 'ENOTFOUND' },
        'nor is it told what is above',
      )
    },
  )
}
