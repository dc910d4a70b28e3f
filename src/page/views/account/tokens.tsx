import type { Api } from '../../live/api.ts'
import { createToken, revokeToken, type TokenRow, tokens } from '../../live/people.ts'
import { useState } from 'preact/hooks'
import { namesIn, numberIn, textIn } from '../../model/entered.ts'
import { whenText } from '../../model/text.ts'
import { grantIn, grantText, type Me } from '../../model/who.ts'
import { Field, type Question, useDesk } from '../../parts/desk.tsx'
import { Sheet, useAnswer, Waiting } from '../../parts/sheet.tsx'
import { limitsText } from './me.tsx'

const DAY_SECONDS = 86_400

/** API tokens and sessions: made, listed, revoked. The text of a token is shown once. */
export function Tokens({ now }: { now: number }) {
  const { api, me, ask } = useDesk()
  const asked = useAnswer(tokens)
  const [made, setMade] = useState<{ name: string; token: string }>()
  if (asked.state !== 'answered') return <Waiting asked={asked} />
  const { answer, again } = asked
  const created = (name: string, token: string) => {
    setMade({ name, token })
    again()
  }
  return (
    <>
      {me?.by === 'token' ? (
        <p class="muted">An API token creates no others: log in by name and password to make one.</p>
      ) : (
        <p class="actions">
          <button type="button" class="button small" onClick={() => ask(createQuestion(api, me, created))}>
            New token
          </button>
        </p>
      )}
      {made === undefined ? undefined : (
        <div class="notice busy" role="status">
          <p>
            The token <b>{made.name}</b>. It is shown this once:
          </p>
          <p class="withbutton">
            <code class="secret">{made.token}</code>
            <button
              type="button"
              class="button small"
              onClick={() => void navigator.clipboard?.writeText(made.token).catch(() => undefined)}
            >
              Copy
            </button>
            <button type="button" class="button small" onClick={() => setMade(undefined)}>
              Done
            </button>
          </p>
        </div>
      )}
      <Sheet
        label="Tokens and sessions"
        rows={answer}
        keyOf={({ id }) => id}
        empty="There are none."
        columns={[
          { head: 'Token', cell: ({ id, kind, name }) => <b>{name ?? (kind === 'session' ? 'session' : id)}</b> },
          { head: 'User', cell: ({ user }) => user },
          {
            head: 'No more than',
            isExtra: true,
            cell: ({ limits }) => (limits === undefined ? 'its owner' : limitsText(limits)),
          },
          { head: 'Created', isExtra: true, cell: ({ createdAt }) => whenText(createdAt, now) },
          {
            head: 'Used',
            isExtra: true,
            cell: ({ usedAt }) => (usedAt === undefined ? 'never' : whenText(usedAt, now)),
          },
          { head: 'Ends', cell: ({ expiresAt }) => whenText(expiresAt, now) },
          {
            head: '',
            cell: (row) => (
              <button type="button" class="button small danger" onClick={() => ask(revokeQuestion(api, row, again))}>
                Revoke<span class="hidden"> {row.name ?? row.id}</span>
              </button>
            ),
          },
        ]}
      />
    </>
  )
}

function createQuestion(api: Api, me: Me | undefined, created: (name: string, token: string) => void): Question {
  const grants = (me?.organisations ?? []).flatMap(({ name, permissions }) => [
    { role: 'viewer', organisation: name } as const,
    ...(permissions.includes('change') ? [{ role: 'application-provider', organisation: name } as const] : []),
    ...(permissions.includes('operate') ? [{ role: 'infrastructure-provider', organisation: name } as const] : []),
  ])
  return {
    title: 'New token',
    text: 'It is for programs: it may what you may, no more than what is chosen here, until it ends.',
    fields: (
      <>
        <Field label="What it is for">
          <input class="field" name="name" required autofocus autocomplete="off" maxLength={100} />
        </Field>
        <Field label="Role">
          <select class="field" name="grant">
            <option value="">all that you may</option>
            {grants.map(({ role, organisation }) => (
              <option key={`${role}@${organisation}`} value={`${role}@${organisation}`}>
                {grantText({ role, organisation })}
              </option>
            ))}
          </select>
        </Field>
        <Field label="Apps" hint="app.namespace, with spaces between them; all where nothing stands.">
          <input class="field" name="apps" autocomplete="off" spellcheck={false} />
        </Field>
        <Field label="Days">
          <input class="field" type="number" name="days" min={1} max={366} step={1} required defaultValue="30" />
        </Field>
      </>
    ),
    confirm: 'Create',
    act: async (entered) => {
      const [apps, grant] = [namesIn(entered, 'apps'), grantIn(textIn(entered, 'grant'))]
      const limits = { ...(grant === undefined ? {} : { grants: [grant] }), ...(apps.length === 0 ? {} : { apps }) }
      const name = textIn(entered, 'name')
      const { token } = await createToken(api, {
        name,
        ttlSeconds: (numberIn(entered, 'days') ?? 30) * DAY_SECONDS,
        ...(Object.keys(limits).length === 0 ? {} : { limits }),
      })
      created(name, token)
      return `The token ${name} is created.`
    },
  }
}

function revokeQuestion(api: Api, { id, kind, name, user }: TokenRow, again: () => void): Question {
  const what = kind === 'session' ? `the session of ${user}` : `the token ${name ?? id}`
  return {
    title: `Revoke ${what}`,
    text: 'It is refused from now on; streams and logs that it has open are cut.',
    confirm: 'Revoke',
    isDanger: true,
    act: async () => {
      await revokeToken(api, id)
      again()
      return `Revoked: ${what}.`
    },
  }
}
