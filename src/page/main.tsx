import { render } from 'preact'
import { App } from './app.tsx'
import { followTheme } from './live/theme.ts'
import './page.css'

followTheme()
const place = document.getElementById('page')
if (place !== null) render(<App />, place)
