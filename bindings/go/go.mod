module litemamba

go 1.24
