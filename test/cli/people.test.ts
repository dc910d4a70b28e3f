import { existsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { X509Certificate } from 'node:crypto'
import t from 'tap'
import { fingerprintOf } from '../../src/core/identity/authorities.ts'
import { run } from '../../src/lab/program.ts'
import { LAUNCHER } from '../support/launcher.ts'
import { mesh, sla } from '../orchestrator/mesh.ts'
import { Machines } from './program.ts'

/** Organisations, users, tokens and the audit log, as people type it; against a root in this process. */

t.test('a mesh is shared from the command line', async (t) => {
  await using world = await mesh({ clusters: ['edge'] })
  await using machines = await Machines.make()
  const admin = join(world.dir, 'root', 'admin.json')
  const good = async (...args: string[]) => {
    const { code, stdout, stderr } = await machines.run('here', ...args)
    t.equal(code, 0, `hedgerow ${args.join(' ')}: ${stderr}`)
    return stdout
  }
  const as =
    (credential: string) =>
    (...args: string[]) =>
      good('--credential', credential, ...args)
  const root = as(admin)
  t.match(
    await root('org', 'create', 'acme', '--instances', '3'),
    /organisation acme created, with the namespaces acme/,
  )
  await root('org', 'create', 'beta', '--namespace', 'beta,gamma')
  await root('org', 'set', 'acme', '--services', '5')
  t.match(await root('org', 'list'), /acme +acme +0 of 5 +0 of 3/)
  t.match(
    await root('user', 'create', 'alice', '--org', 'acme', '--role', 'organisation-administrator', '--no-password'),
    /user alice created/,
  )
  t.match(
    await root('user', 'grant', 'alice', 'viewer', '--org', 'beta'),
    /alice is organisation-administrator of acme, viewer of beta/,
  )
  t.match(
    await root('user', 'revoke', 'alice', 'viewer', '--org', 'beta'),
    /alice is organisation-administrator of acme\n/,
  )
  t.match(await root('user', 'list'), /alice +acme +organisation-administrator of acme +no/)

  // a token for a program
  const ci = join(machines.dir, 'ci.json')
  writeFileSync(ci, await root('api-token', 'create', 'ci', '--role', 'viewer', '--org', 'acme', '--ttl', '1h'))
  t.match(await as(ci)('whoami'), /admin[^]*an API token[^]*no more than +viewer of acme[^]*acme +acme +see/)
  const refused = await machines.run('here', '--credential', ci, 'org', 'create', 'mine')
  t.match(refused, { code: 4, stderr: /these credentials do not allow this: your roles do not include/ })
  t.match(await root('api-token', 'list'), /API token +ci +viewer of acme/)

  // somebody logs in
  await world.api.ask('PUT', '/v1/users/{name}/password', {
    path: { name: 'alice' },
    body: { password: 'correct horse' },
  })
  const { url, ca } = world.credential
  const fingerprint = fingerprintOf(new X509Certificate(ca))
  const login = (password: string) => {
    const command = [process.execPath, LAUNCHER, '--state', machines.path('alice'), 'login', url, '--user', 'alice']
    const piped = [
      'sh',
      '-c',
      'word=$1; shift; echo "$word" | "$@"',
      'sh',
      password,
      ...command,
      '--fingerprint',
      fingerprint,
    ]
    return run(piped, { timeoutMs: 30_000 })
  }
  t.match(await login('wrong horse'), { code: 4, stderr: /the user or the password is wrong/ })
  t.match(await login('correct horse'), { stdout: /logged in as alice/ })
  t.equal(statSync(machines.path('alice', 'login.json')).mode & 0o777, 0o600)
  const alice = async (...args: string[]) => (await machines.run('alice', ...args)).stdout
  t.match(await alice('whoami'), /alice[^]*a session[^]*organisation-administrator of acme/)
  t.match(await alice('user', 'list'), /alice/)

  // more than the quota
  const api = world.api
  await t.rejects(api.ask('POST', '/v1/apps', { body: sla({ microservice_name: 'cart', replicas: 4 }) }), {
    code: 'QUOTA_EXCEEDED',
    message: /acme would have more than its quota/,
    details: { reason: '4 instances, and 3 are allowed' },
  })

  // whose a cluster is
  await root('org', 'own', 'edge', 'beta')
  await root('org', 'admit', 'edge', 'acme')
  t.match(await root('org', 'clusters'), /edge +beta +acme/)
  await root('org', 'own', 'edge')
  t.match(await root('org', 'clusters'), /edge +– +all/)

  t.match(await root('audit', '--user', 'alice'), /alice +127.0.0.1 +login +– +401[^]*alice +127.0.0.1 +login +– +200/)
  t.match(await root('audit', 'edge'), /admin +127.0.0.1 +setClusterOwner +edge +200/)
  t.match(await alice('logout'), /alice is logged out/)
  t.notOk(existsSync(machines.path('alice', 'login.json')))
  t.match(await root('user', 'delete', 'alice'), /user alice deleted/)
  await root('org', 'delete', 'beta')
})
