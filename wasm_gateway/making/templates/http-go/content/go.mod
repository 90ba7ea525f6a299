module {{project-name | snake_case}}

go 1.21
